//! Devices that the machine always has or never has, and that may be written all the same.

use crate::choice::choice;
use crate::error::DomainXmlError;
use crate::xml::{Element, Writer};

choice! {
    /// Where a guest's random numbers come from.
    RngBackend {
        /// The machine's own generator, seeded by the host.
        Builtin = "builtin",
        /// The same, written as the host's source of seeds.
        Random = "random",
    }
}

/// `<rng>`: always there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    /// How it is written.
    pub backend: RngBackend,
    /// The host's device, where one is written.
    device: Option<String>,
}

impl Default for Rng {
    fn default() -> Self {
        Self { backend: RngBackend::Builtin, device: None }
    }
}

impl Rng {
    pub(super) fn read(rng: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        rng.only("model", &["virtio", "virtio-non-transitional"], "the random number device is virtio")?;
        let mut element = rng.child("backend")?.ok_or_else(|| rng.invalid("<rng> lacks <backend>"))?;
        let reason = "numbers come from the machine's generator, which the host seeds: write model='builtin'";
        let word = element.required("model")?;
        let backend = RngBackend::parse(word).ok_or_else(|| element.unsupported_value("model", word, reason))?;
        let device = Some(element.text().trim().to_owned()).filter(|text| !text.is_empty());
        if let Some(path) = device.as_deref().filter(|path| !["/dev/urandom", "/dev/random"].contains(path)) {
            return Err(element.unsupported(format!("'{path}' in <backend>"), reason));
        }
        element.finish()?;
        Ok(Self { backend, device })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.tag("rng").attr("model", "virtio").content(|w| {
            let tag = w.tag("backend").attr("model", self.backend);
            match &self.device {
                Some(device) => tag.text(device),
                None => tag.end(),
            }
        });
    }
}

/// `<memballoon>`: always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Balloon;

impl Balloon {
    pub(super) fn read(balloon: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        let reason = "the machine always has a virtio balloon";
        balloon.only("model", &["virtio", "virtio-non-transitional"], reason)?;
        Ok(Self)
    }

    pub(super) fn write(self, w: &mut Writer) {
        w.tag("memballoon").attr("model", "virtio").end();
    }
}

/// Controllers and the like, as far as what is written is the case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Fixtures {
    /// `<controller type='pci' index='0' model='pcie-root'/>`
    pcie_root: bool,
    /// `<controller type='usb' model='none'/>`
    no_usb: bool,
    /// `<input type='keyboard' bus='ps2'/>`
    keyboard: bool,
    /// `<video><model type='none'/></video>`
    no_video: bool,
    /// `<audio id='1' type='none'/>`
    no_audio: bool,
}

impl Fixtures {
    pub(super) fn read(devices: &mut Element<'_>) -> Result<Self, DomainXmlError> {
        let mut fixtures = Self::default();
        for mut controller in devices.children("controller") {
            let kind = controller.required("type")?;
            match kind {
                "pci" => {
                    let reason = "devices sit on the root bus: only index='0' model='pcie-root'";
                    controller.only("index", &["0"], reason)?;
                    controller.only("model", &["pcie-root"], reason)?;
                    fixtures.pcie_root = true;
                }
                "usb" => {
                    let model = controller.required("model")?;
                    if model != "none" {
                        return Err(controller.unsupported_value("model", model, "there is no USB"));
                    }
                    controller.only("index", &["0"], "there is no USB")?;
                    fixtures.no_usb = true;
                }
                other => return Err(controller.unsupported_value("type", other, "there is no such controller")),
            }
            controller.finish()?;
        }
        for mut input in devices.children("input") {
            input.only("type", &["keyboard"], "there is a PS/2 keyboard only")?;
            input.only("bus", &["ps2"], "there is a PS/2 keyboard only")?;
            input.finish()?;
            fixtures.keyboard = true;
        }
        for mut video in devices.children("video") {
            let reason = "there is no display; use a serial console";
            let mut model = video.child("model")?.ok_or_else(|| video.unsupported("<video>", reason))?;
            let kind = model.required("type")?;
            if kind != "none" {
                return Err(model.unsupported_value("type", kind, reason));
            }
            model.finish()?;
            video.finish()?;
            fixtures.no_video = true;
        }
        for mut audio in devices.children("audio") {
            audio.only("id", &["1"], "")?;
            let kind = audio.required("type")?;
            if kind != "none" {
                return Err(audio.unsupported_value("type", kind, "there is no sound device"));
            }
            audio.finish()?;
            fixtures.no_audio = true;
        }
        Ok(fixtures)
    }

    pub(super) fn write(&self, w: &mut Writer) {
        if self.no_usb {
            w.tag("controller").attr("type", "usb").attr("model", "none").end();
        }
        if self.pcie_root {
            w.tag("controller").attr("type", "pci").attr("index", 0).attr("model", "pcie-root").end();
        }
        if self.keyboard {
            w.tag("input").attr("type", "keyboard").attr("bus", "ps2").end();
        }
        if self.no_audio {
            w.tag("audio").attr("id", 1).attr("type", "none").end();
        }
        if self.no_video {
            w.tag("video").content(|w| w.tag("model").attr("type", "none").end());
        }
    }
}
