//! The command line as users type it.

use super::*;

fn run(line: &str) -> Result<RunArguments, String> {
    let words = std::iter::once("virtft-emulator").chain(line.split_whitespace());
    match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
        Command::Run(arguments) => arguments.check().map(|()| *arguments).map_err(|error| error.to_string()),
        other => panic!("not a run: {other:?}"),
    }
}

#[test]
fn the_line_of_the_readme() {
    let arguments = run("run --kernel vmlinuz --initrd initrd.img --append console=ttyS0 --memory 1G --vcpus 2 \
         --disk file=debian.qcow2,id=root --net tap=tap0,mac=52:54:00:00:00:01 --serial stdio")
    .unwrap();
    assert_eq!(arguments.memory, 1 << 30);
    assert_eq!(arguments.vcpus, 2);
    assert_eq!(arguments.disk[0].id.as_deref(), Some("root"));
    assert_eq!(arguments.net[0].kind, NetKind::Tap("tap0".into()));
    assert_eq!(arguments.net[0].mac.unwrap().to_string(), "52:54:00:00:00:01");
    assert_eq!(arguments.serial, [CharOption::Stdio]);
}

#[test]
fn every_backend_parses() {
    let arguments = run("run --kernel k --serial unix:/tmp/s,server --serial pty --net passt,mac=02:00:00:00:00:09 \
         --net stream=/tmp/n --net none --debugcon file:/tmp/d --console null --console unix:/c")
    .unwrap();
    assert_eq!(arguments.serial[0], CharOption::Unix { path: "/tmp/s".into(), server: true });
    assert_eq!(arguments.console[1], CharOption::Unix { path: "/c".into(), server: false });
    assert_eq!(arguments.net[1].kind, NetKind::Stream { path: "/tmp/n".into(), server: false, small_windows: false });
    assert_eq!(arguments.net[2].kind, NetKind::None { like: None });
}

#[test]
fn help_is_complete() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
    let mut command = Cli::command();
    for sub in command.get_subcommands_mut() {
        assert!(sub.get_about().is_some(), "{} has no help", sub.get_name());
        for argument in sub.get_arguments().filter(|argument| argument.get_id() != "help") {
            assert!(argument.get_help().is_some(), "{} has no help", argument.get_id());
        }
        assert!(sub.render_long_help().to_string().contains("triple fault"));
    }
}

#[test]
fn refusals_say_what_to_write() {
    let refused = [
        ("run --kernel k --disk id=x", "'file=' is missing"),
        ("run --kernel k --disk file=a,format=vmdk", "qemu-img convert"),
        ("run --kernel k --disk file=a,id=012345678901234567890", "1 to 20"),
        ("run --kernel k --disk file=a,id=x --disk file=b,id=x", "two disks have the id 'x'"),
        ("run --kernel k --net bridge=br0", "tap=NAME"),
        ("run --kernel k --net tap=t,mac=01:00:00:00:00:00", "unicast"),
        ("run --kernel k --net tap=t,mac=1:2:3", "six bytes"),
        ("run --kernel k --serial tcp:1", "unix:/path"),
        ("run --kernel k --serial stdio --console stdio", "stdio is used by more than one"),
        ("run --kernel k --serial null --serial null --serial null", "two serial ports"),
        ("run --kernel k --debugcon pty", "file:/path or stdio"),
        ("run --kernel k --memory 1", "from 16M to 512G"),
        ("run --kernel k --vcpus 9", "9 is not in 1..=8"),
        ("run --kernel k --inputs s", "--clock virtual"),
        ("run --kernel k --clock virtual --net passt", "no host network"),
        ("run --kernel k --clock virtual --serial pty", "no input from the host"),
        ("run --kernel k --save-at 5", "COUNT=FILE"),
        ("run --kernel k --rng-seed xyz", "hex digits"),
        ("run --kernel k --digest-every 5", "--digest-log"),
        ("run", "--kernel"),
    ];
    for (line, expected) in refused {
        let message = run(line).unwrap_err();
        assert!(message.contains(expected), "{line}: {message}");
    }
}

#[test]
fn seeds_are_right_aligned() {
    let arguments = run("run --kernel k --rng-seed 2a").unwrap();
    let mut expected = [0; 32];
    expected[31] = 0x2a;
    assert_eq!(arguments.rng_seed, Some(expected));
}
