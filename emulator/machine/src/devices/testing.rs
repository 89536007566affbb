//! What the tests of all devices share.

use virtft_cpu::memory::GuestRam;

use crate::entropy::Entropy;

use super::Device;
use crate::context::{DeviceContext, Effect, Effects, InterruptLine};
use crate::snapshot::Snapshot;

/// Saves `live`, restores into `fresh` from encoded bytes, and demands equal state and equal bytes.
pub fn check_snapshot<T: Snapshot>(live: &mut T, mut fresh: T) {
    let saved = live.save();
    let bytes = postcard::to_stdvec(&saved).unwrap();
    let decoded: T::State = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(decoded, saved, "{}: the encoding loses state", T::KIND);
    fresh.restore(decoded).unwrap_or_else(|error| panic!("{}: {error}", T::KIND));
    let again = fresh.save();
    assert_eq!(again, saved, "{}: restore loses state", T::KIND);
    assert_eq!(postcard::to_stdvec(&again).unwrap(), bytes, "{}: the encoding is not canonical", T::KIND);
    live.restore(again).unwrap();
}

/// A device alone on a bench: time is set by hand, effects are collected.
pub struct Bench<D> {
    pub device: D,
    pub now_ns: u64,
    pub effects: Effects,
    entropy: Entropy,
    ram: GuestRam,
}

impl<D: Device> Bench<D> {
    pub fn new(device: D) -> Self {
        Self {
            device,
            now_ns: 0,
            effects: Effects::new(),
            entropy: Entropy::new(),
            ram: GuestRam::new(1 << 20).unwrap(),
        }
    }

    pub fn call<R>(&mut self, body: impl FnOnce(&mut D, &mut DeviceContext<'_>) -> R) -> R {
        let mut cx = DeviceContext {
            memory: self.ram.memory(),
            now_ns: self.now_ns,
            effects: &mut self.effects,
            entropy: &mut self.entropy,
        };
        body(&mut self.device, &mut cx)
    }

    pub fn read(&mut self, port: u16) -> u8 {
        self.call(|device, cx| device.read(cx, port))
    }

    pub fn write(&mut self, port: u16, value: u8) {
        self.call(|device, cx| device.write(cx, port, value));
    }

    /// Goes to a time and lets everything that is due happen.
    pub fn run_to(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.call(|device, cx| device.advance(cx));
        assert!(self.device.deadline_ns() > now_ns, "{}: the deadline stays in the past", D::KIND);
    }

    /// Takes the level changes of a line.
    pub fn take_line(&mut self, line: u8) -> Vec<bool> {
        let mut levels = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Line(InterruptLine(number), level) if *number == line => {
                levels.push(*level);
                false
            }
            _ => true,
        });
        levels
    }
}

/// One test module per device: the state survives after every step of a walk through its ports.
macro_rules! snapshot_walk {
    ($name:ident, $new:expr, $ports:expr) => {
        #[test]
        fn $name() {
            let mut bench = crate::devices::testing::Bench::new($new);
            let mut random = 0x9e37_79b9_7f4a_7c15u64;
            let ports: Vec<u16> = $ports.collect();
            for step in 0..4000u64 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let port = ports[crate::bits::to_usize(random >> 33) % ports.len()];
                if random & (1 << 20) == 0 {
                    bench.read(port);
                } else {
                    bench.write(port, crate::bits::low8(random >> 24));
                }
                let now_ns = bench.now_ns + (random >> 40) % 3_000_000;
                bench.run_to(now_ns);
                bench.effects.clear();
                if step % 16 == 0 {
                    crate::devices::testing::check_snapshot(&mut bench.device, $new);
                }
            }
        }
    };
}
pub(crate) use snapshot_walk;
