//! Command lines as orchestrators write them, and those that are refused.

use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Invocation, Refusal> {
    parse_from(std::iter::once("nydusd").chain(line.split_whitespace()))
}

fn fuse(line: &str) -> FuseArgs {
    match parse(line) {
        Ok(Invocation::Fuse(args)) => *args,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn both_forms_mean_the_same() {
    // How nydusify and nydus-snapshotter call us.
    for line in [
        "--config C --mountpoint M --bootstrap B --apisock S --log-level warn",
        "fuse --mountpoint M --apisock S --log-level warn --config C --bootstrap B",
        "fuse -M M -A S -l warn -C C -B B",
    ] {
        let args = fuse(line);
        assert_eq!(args.mountpoint(), Path::new("M"));
        assert_eq!(args.bootstrap(), Some(Path::new("B")));
        assert_eq!(args.config(), Some(ConfigSource::File(Path::new("C"))));
        assert_eq!(args.global.apisock.as_deref(), Some(Path::new("S")));
        assert_eq!(args.global.log_level, Level::Warn);
        assert_eq!(args.fuse_threads(), 4);
        assert_eq!(args.failover_policy(), FailoverPolicy::Resend);
        assert_eq!(args.allow_other(), None);
        assert_eq!(args.global.rlimit_nofile, 1_000_000);
        assert_eq!((args.global.log_file, args.global.log_rotation_size), (None, 0));
    }
}

#[test]
fn calls_of_orchestrators() {
    let args = fuse(
        "fuse --mountpoint M --apisock S --log-level info --thread-num 10 --config C --bootstrap B \
         --failover-policy flush --prefetch-files P",
    );
    assert_eq!((args.fuse_threads(), args.failover_policy()), (10, FailoverPolicy::Flush));
    assert_eq!(args.prefetch_files(), Some(Path::new("P")));
    // Without an image, mounts come over the socket.
    let empty = fuse("fuse --mountpoint M --apisock S --log-level INFO");
    assert_eq!((empty.bootstrap(), empty.config()), (None, None));

    for (line, option) in [
        ("fuse --mountpoint M --apisock S --log-level info --id I --supervisor P --upgrade", "--supervisor"),
        ("fuse --mountpoint M --upgrade", "--upgrade"),
        ("singleton --fscache DIR --fscache-threads 4 --log-level info", "singleton"),
        ("virtiofs --hybrid-mode --log-level info --apisock A --sock V", "virtiofs"),
        ("nbd /dev/nbd0 -B b -D d", "nbd"),
        ("uffd -S s -B b", "uffd"),
        ("virtiofs --help", "virtiofs"),
        ("fuse -M M --shared-dir D", "--shared-dir"),
        ("fuse -M M -B B -C C --writable", "--writable"),
        ("-M M -B B -C C --dedup-db D", "--dedup-db"),
        ("fuse -M M -B B -C C -m /sub", "--virtual-mountpoint"),
    ] {
        match parse(line) {
            Err(error @ Refusal::Unsupported { .. }) => {
                assert!(
                    error.to_string().starts_with(&format!("{option}: not supported yet")),
                    "{line}: {error}"
                );
            }
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn usage_errors() {
    for (line, kind) in [
        ("", ErrorKind::MissingRequiredArgument),
        ("fuse", ErrorKind::MissingRequiredArgument),
        ("--log-level info", ErrorKind::MissingRequiredArgument),
        // Options before a command.
        ("--log-level info fuse --mountpoint M", ErrorKind::ArgumentConflict),
        ("--mountpoint M fuse --mountpoint M", ErrorKind::ArgumentConflict),
        ("--apisock S virtiofs --sock V", ErrorKind::ArgumentConflict),
        ("fuse -M M --nonsense", ErrorKind::UnknownArgument),
        ("nonsense", ErrorKind::InvalidSubcommand),
        ("fuse -M M --dedup-db D", ErrorKind::UnknownArgument),
        ("fuse -M M --log-level loud", ErrorKind::InvalidValue),
        ("fuse -M M --failover-policy pray", ErrorKind::InvalidValue),
        ("fuse -M M --fuse-threads 0", ErrorKind::ValueValidation),
        ("fuse -M M --fuse-threads 1025", ErrorKind::ValueValidation),
        ("fuse -M M --rlimit-nofile -1", ErrorKind::UnknownArgument),
        ("fuse -M M --rlimit-nofile many", ErrorKind::ValueValidation),
        ("fuse -M M --id I", ErrorKind::MissingRequiredArgument),
        ("fuse -M M --supervisor S", ErrorKind::MissingRequiredArgument),
        ("fuse -M M -B B -s D", ErrorKind::ArgumentConflict),
        ("fuse -M M -B B -C C -D D", ErrorKind::ArgumentConflict),
        ("fuse -M M --prefetch-files P", ErrorKind::MissingRequiredArgument),
        ("fuse -M M -B B -C C --bootstrap-digest abc", ErrorKind::ValueValidation),
        ("fuse -M M -B B -C C --bootstrap-digest sha256:abc", ErrorKind::ValueValidation),
        ("fuse -M M -C C --bootstrap-digest sha256:abc", ErrorKind::ValueValidation),
        ("fuse -M M --log-file /", ErrorKind::ValueValidation),
        ("completions tcl", ErrorKind::InvalidValue),
    ] {
        match parse(line) {
            Err(Refusal::Clap(error)) => {
                assert_eq!(error.kind(), kind, "{line}: {error}");
                assert_eq!(error.exit_code(), 2, "{line}");
            }
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn a_bootstrap_without_configuration_is_an_error_of_its_own() {
    let error = parse("fuse -M M -B B").unwrap_err();
    assert!(matches!(error, Refusal::Invalid(_)), "{error}");
    assert_eq!(format!("{:?}", error.report()), format!("{:?}", ExitCode::FAILURE));
    assert_eq!(fuse("-M M -B B -D D").config(), Some(ConfigSource::LocalfsDir(Path::new("D"))));
}

#[test]
fn version_and_help_of_every_command() {
    for command in ["", "fuse ", "demo ", "completions ", "man "] {
        for (flag, kind) in [
            ("--version", ErrorKind::DisplayVersion),
            ("-V", ErrorKind::DisplayVersion),
            ("--help", ErrorKind::DisplayHelp),
            ("-h", ErrorKind::DisplayHelp),
        ] {
            let Err(Refusal::Clap(error)) = parse(&format!("{command}{flag}")) else {
                panic!("{command}{flag}")
            };
            assert_eq!((error.kind(), error.exit_code()), (kind, 0));
            if kind == ErrorKind::DisplayVersion {
                let text = error.to_string();
                let expected = format!(
                    " Version: \t{}\nGit Commit: \t{}\nBuild Time: \t{}\nProfile: \t{}\nRustc: \t\t{}\n",
                    version::PACKAGE,
                    version::GIT_COMMIT,
                    version::BUILD_TIME,
                    version::PROFILE,
                    version::RUSTC
                );
                assert_eq!(text, expected, "{command}");
            }
        }
    }
    let Err(Refusal::Clap(help)) = parse("fuse --help") else { panic!("help") };
    let help = help.to_string();
    for option in ["--bootstrap-digest", "--config", "--mountpoint", "--apisock", "--rlimit-nofile"] {
        assert!(help.contains(option), "{option} in {help}");
    }
}

#[test]
fn values_are_made_ready() {
    for (written, meant) in [
        ("x", "x.log"),
        ("/var/log/nydusd", "/var/log/nydusd.log"),
        ("a.b/c", "a.b/c.log"),
        ("c.txt", "c.txt"),
    ] {
        let args = fuse(&format!("fuse -M M --log-file {written} --log-rotation-size 7"));
        let log = args.global.log_options();
        assert_eq!(log.file.as_deref(), Some(Path::new(meant)));
        assert_eq!((log.rotation_size, log.level), (7 << 20, Level::Info));
    }
    let hex = "00ff".repeat(16);
    let digest = fuse(&format!("fuse -M M -B B -C C --bootstrap-digest sha256:{hex}")).bootstrap_digest();
    assert_eq!(digest.map(|digest| digest.to_string()), Some(hex));
    assert_eq!(fuse("fuse -M M --allow-other").allow_other(), Some(true));
    assert_eq!(fuse("fuse -M M --allow-other=false").allow_other(), Some(false));
    assert!(matches!(parse("demo"), Ok(Invocation::Demo(DemoArgs { keep: false }))));
}

#[test]
fn prefetch_lists_are_absolute_paths() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list");
    std::fs::write(&path, "/bin/sh\n\n/etc/passwd\r\n").unwrap();
    assert_eq!(prefetch_list(&path).unwrap(), [Path::new("/bin/sh"), Path::new("/etc/passwd")]);
    std::fs::write(&path, "/bin/sh\nrelative\n").unwrap();
    let error = prefetch_list(&path).unwrap_err().to_string();
    assert!(
        error.ends_with("list:2: expected an absolute path inside the image, found \"relative\""),
        "{error}"
    );
    std::fs::write(&path, b"/\xff\n").unwrap();
    assert!(format!("{:#}", prefetch_list(&path).unwrap_err()).contains("UTF-8"));
    assert!(prefetch_list(&dir.path().join("none")).unwrap_err().to_string().contains("none: cannot read"));
}

#[test]
fn completions_and_manual_are_about_us() {
    for shell in clap_complete::Shell::value_variants() {
        let text = String::from_utf8(completions(*shell)).unwrap();
        assert!(text.contains("nydusd") && text.contains("bootstrap-digest"), "{shell}");
    }
    let page = String::from_utf8(man().unwrap()).unwrap();
    assert!(page.contains(".TH nydusd") && page.contains("mountpoint"), "{page}");
}
