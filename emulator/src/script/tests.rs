//! Parsing with its refusals, and playing against outputs.

use virtft_machine::io::{DeviceIndex, InstructionCount, Output};

use super::*;

fn parse(text: &str) -> Result<Vec<(usize, Step)>, String> {
    Script::parse("s", text).map(|script| script.steps).map_err(|error| error.to_string())
}

fn player(text: &str) -> ScriptPlayer {
    ScriptPlayer::new(Script::parse("s", text).unwrap(), InstructionCount(0))
}

fn printed(text: &str) -> Output {
    Output::CharTransmit { port: CharPort::Serial(0), data: text.as_bytes().to_vec() }
}

#[test]
fn every_step_parses() {
    let steps = parse(
        "# a comment\n\n100M net 0 ffffffffffff5254001234560806 # tail\n+5k link 1 down\nkey 1d 38 53\n\
         400 serial 1 \"a\\x03\\n\"\nexpect console 2 \"#\"\nsend \"ls\\n\"\nballoon 256\n9M power\nreset\nnmi\nend\n",
    )
    .unwrap();
    assert_eq!(steps.len(), 11);
    let (line, Step::Do(position, Action::Deliver(Input::NetReceive { device, packet }))) = &steps[0] else {
        panic!("{:?}", steps[0]);
    };
    assert_eq!((*line, *position, *device, packet.len()), (3, Position::At(100_000_000), DeviceIndex(0), 26));
    assert_eq!(packet[..12], [0; 12], "the header in front of the frame is empty");
    assert_eq!(steps[2].1, {
        let input = Input::Keyboard { scancodes: vec![0x1d, 0x38, 0x53] };
        Step::Do(Position::After(REACTION_STEPS), Action::Deliver(input))
    });
    assert_eq!(steps[3].1, Step::Do(Position::At(400), Action::Type(CharPort::Serial(1), b"a\x03\n".to_vec())));
    let send = Action::Type(CharPort::Console(2), b"ls\n".to_vec());
    assert_eq!(steps[5].1, Step::Do(Position::After(REACTION_STEPS), send), "send answers the last expect");
}

#[test]
fn wrong_lines_are_named_with_their_number() {
    let wrong = [
        ("\n\nfly", "line 3: there is no step 'fly'"),
        ("5x power", "step count"),
        ("5 serial 2 \"x\"", "no serial port 2"),
        ("5 serial 0 x", "should be text"),
        ("5 serial 0 \"x", "closing quote"),
        ("5 serial 0 \"\\q\"", "unknown escape"),
        ("5 serial 0 \"\\xg0\"", "two hex digits"),
        ("5 net 0 abc", "even number"),
        ("5 net 0 abcd", "at least 14"),
        ("5 net x abcd", "no network device"),
        ("5 link 0 sideways", "up or down"),
        ("5 key zz", "no scan code"),
        ("5 expect \"x\"", "no position"),
        ("expect \"\"", "empty"),
        ("5 power now", "too much"),
        ("5", "name of a step"),
        ("balloon -1", "4 KiB pages"),
    ];
    for (text, expected) in wrong {
        let message = parse(text).unwrap_err();
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn positions_follow_the_output_not_the_caller() {
    let text = "expect \"login: \"\nsend \"root\\n\"\nexpect \"# \"\n+5M power\n";
    for lag in [0, 1, REACTION_STEPS] {
        let mut player = player(text);
        assert_eq!(player.due(), None);
        player.observe(InstructionCount(1000), &printed("Debian\nlog"));
        assert_eq!(player.waiting_for(), Some((1, "login: ".to_owned())));
        player.observe(InstructionCount(2000), &printed("in: "));
        let now = InstructionCount(2000 + lag);
        assert_eq!(player.due(), Some(2000 + REACTION_STEPS));
        if lag < REACTION_STEPS {
            assert_eq!(player.take(now, false), None);
        }
        let event = player.take(InstructionCount(2000 + REACTION_STEPS), false).unwrap();
        let typed = Input::CharReceive { port: CharPort::Serial(0), data: b"root\n".to_vec() };
        assert_eq!(event, ScriptEvent::Input(typed));
        player.observe(InstructionCount(500_000), &printed("\r\n# "));
        assert_eq!(player.due(), Some(5_500_000));
        assert!(player.take(InstructionCount(5_500_000), false).is_some());
        assert!(player.is_finished());
    }
}

#[test]
fn output_before_its_expect_still_counts() {
    let mut player = player("10M serial 0 \"x\"\nexpect \"ready\"\nend\n");
    player.observe(InstructionCount(5), &printed("ready"));
    assert!(player.take(InstructionCount(10_000_000), false).is_some());
    assert_eq!(player.due(), Some(10_000_000 + REACTION_STEPS));
    assert_eq!(player.take(InstructionCount(20_000_000), false), Some(ScriptEvent::End));
}

#[test]
fn long_text_is_typed_in_portions() {
    let mut player = player(&format!("5 serial 0 \"{}\"", "y".repeat(200)));
    let mut typed = Vec::new();
    let mut at = Vec::new();
    while let Some(due) = player.due() {
        at.push(due);
        let Some(ScriptEvent::Input(Input::CharReceive { data, .. })) = player.take(InstructionCount(due), false)
        else {
            panic!("typing only");
        };
        typed.extend(data);
    }
    assert_eq!(typed, vec![b'y'; 200]);
    assert_eq!(at, [5, 5 + REACTION_STEPS, 5 + 2 * REACTION_STEPS, 5 + 3 * REACTION_STEPS]);
}

#[test]
fn an_idle_guest_gets_its_input_at_once() {
    let mut player = player("900M power");
    assert_eq!(player.take(InstructionCount(7), false), None);
    assert_eq!(player.take(InstructionCount(7), true), Some(ScriptEvent::Input(Input::PowerButton)));
}
