//! Layers as their makers leave them, laid over others. What a mount of the result shows is what overlayfs shows of the
//! directories, or of those into which a container runtime would unpack the tars.

mod runtime;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use nydus_image::cli::{Cli, Command};
use nydus_tests::config::Config;
use nydus_tests::daemon::Scratch;
use nydus_tests::manifest::Manifest;
use nydus_tests::require_mounts;
use runtime::{Entry, Overlay, as_directory, as_runtime, as_tar, directory, file, rewrite, stamp, symlink};

/// Runs `nydus-image`: what it says if it fails.
fn nydus_image(args: &[&str]) -> Result<(), String> {
    let cli = Cli::try_parse_from([&["nydus-image"], args].concat()).unwrap();
    let done = match cli.command {
        Some(Command::Create(args)) => nydus_image::command::create::run(&args, &cli.global),
        Some(Command::Merge(args)) => nydus_image::command::merge::run(&args, &cli.global),
        other => panic!("{other:?}"),
    };
    done.map_err(|error| error.to_string())
}

/// Builds `source`.
fn create(version: &str, bootstrap: &Path, flags: &[&str], source: &Path) -> Result<(), String> {
    let blobs = bootstrap.parent().unwrap().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let paths = [bootstrap, &blobs, source].map(|path| path.to_str().unwrap());
    let fixed = ["create", version, "--compressor=none", "-B", paths[0], "-D", paths[1]];
    nydus_image(&[&fixed[..], flags, &[paths[2]]].concat())
}

/// Builds `upper` over `lower`, by `--parent-bootstrap` and by `merge`, in both formats, and mounts the results.
fn assert_shown(expected: &Manifest, lower: &Path, upper: &Path, flags: &[&str], context: &str) {
    for version in ["-v5", "-v6"] {
        let scratch = Scratch::new();
        let [base, over, layer, merged] = ["base", "over", "layer", "merged"].map(|name| scratch.path(name));
        create(version, &base, &[], lower).unwrap();
        let parent = [flags, &["--parent-bootstrap", base.to_str().unwrap()]].concat();
        create(version, &over, &parent, upper).unwrap();
        create(version, &layer, flags, upper).unwrap();
        let paths = [&merged, &base, &layer].map(|path| path.to_str().unwrap());
        nydus_image(&["merge", "-C", paths[1], "-B", paths[0], paths[1], paths[2]]).unwrap();
        for bootstrap in [&over, &merged] {
            let context = format!("{context}, {version}, {}", bootstrap.display());
            let opened = rafs::Bootstrap::open(bootstrap, &rafs::OpenOptions::default()).unwrap();
            opened.check().unwrap();
            let config = Config::new(&scratch.path("blobs"), &scratch.cache());
            let daemon = scratch.launch(bootstrap, &config).start();
            expected.assert_tree(daemon.mountpoint(), &context);
            daemon.unmount();
        }
    }
}

/// Names that are hard to remove: not UTF-8, and as long as names can be.
fn odd_names() -> [Vec<u8>; 3] {
    [b"bad\xff\xfe".to_vec(), vec![b'l'; 252], vec![b'm'; 255]]
}

/// The lower layer of the tests.
fn lower_layer() -> Vec<Entry> {
    let mut entries = vec![
        directory("", 0o751),
        file("a", "a"),
        file("b", "b"),
        directory("dir", 0o755),
        file("dir/x", "x"),
        file("dir/y", "y"),
        directory("dir/sub", 0o700),
        file("dir/sub/z", "z"),
        directory("gone", 0o755),
        file("gone/p", "p"),
        directory("opaque", 0o755),
        file("opaque/old", "old"),
        directory("keep", 0o1777).with("user.k", b"v"),
        file("keep/old", "kept"),
        directory("lib", 0o711),
        file("lib/lower", "of a directory that becomes a symlink"),
        directory("usr", 0o755),
        directory("usr/lib", 0o750),
        file("usr/lib/lower", "below"),
    ];
    entries.extend(odd_names().map(|name| file(name, "odd")));
    entries
}

/// What a container does to its files.
fn use_it(root: &Path) {
    fs::remove_file(root.join("a")).unwrap();
    rewrite(&root.join("b"), "changed");
    xattr::set(root.join("b"), "user.k", b"v").unwrap();
    fs::remove_file(root.join("dir/x")).unwrap();
    fs::rename(root.join("dir/y"), root.join("dir/moved")).unwrap();
    fs::remove_dir_all(root.join("gone")).unwrap();
    fs::remove_dir_all(root.join("opaque")).unwrap();
    fs::create_dir(root.join("opaque")).unwrap();
    rewrite(&root.join("opaque/new"), "new");
    fs::create_dir(root.join("more")).unwrap();
    rewrite(&root.join("more/n"), "n");
    for name in odd_names() {
        fs::remove_file(root.join(OsStr::from_bytes(&name))).unwrap();
    }
    // So that everything has the same times, however often this is done.
    for path in ["dir", "opaque", "more", "dir/moved"] {
        stamp(&root.join(path), runtime::TIME);
    }
}

/// An overlay at `dir`/mnt, whose upper directory is `dir`/upper.
fn writable(dir: &Path, lower: &Path, options: &str) -> Option<Overlay> {
    for name in ["upper", "work"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let [lower, upper, work] =
        [lower.into(), dir.join("upper"), dir.join("work")].map(|path: PathBuf| path.display().to_string());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}{options}");
    Overlay::mount(&dir.join("mnt"), &options)
}

#[test]
fn upper_directories_of_root_and_of_users_show_what_their_overlay_showed() {
    require_mounts!();
    for options in ["", ",userxattr"] {
        let dir = tempfile::tempdir().unwrap();
        let lower = dir.path().join("lower");
        as_directory(&lower_layer(), &lower);
        let Some(overlay) = writable(dir.path(), &lower, options) else { return };
        use_it(overlay.path());
        let expected = Manifest::of_tree(overlay.path()).unwrap();
        drop(overlay);
        let upper = dir.path().join("upper");
        assert_shown(&expected, &lower, &upper, &["--whiteout-spec=overlayfs"], &format!("upper{options}"));
    }
}

#[test]
fn whiteouts_that_are_attributes_remove_as_in_an_overlay() {
    require_mounts!();
    for (prefix, options) in [("trusted", ""), ("user", ",userxattr")] {
        let dir = tempfile::tempdir().unwrap();
        let [lower, upper] = ["lower", "upper"].map(|name| dir.path().join(name));
        as_directory(&lower_layer(), &lower);
        let [whiteout, opaque] =
            ["whiteout", "opaque"].map(|name| format!("{prefix}.overlay.{name}").leak() as &'static str);
        let layer = [
            directory("", 0o755).with(opaque, b"x"),
            file("a", "").with(whiteout, b"y"),
            directory("dir", 0o755).with(opaque, b"x"),
            file("dir/x", "").with(whiteout, b""),
            file("dir/new", "new"),
            file("gone", "").with(whiteout, b"y"),
            directory("opaque", 0o700).with(opaque, b"y"),
            file("opaque/new", ""),
        ];
        as_directory(&layer, &upper);
        let options = format!("lowerdir={}:{}{options}", upper.display(), lower.display());
        let Some(overlay) = Overlay::mount(&dir.path().join("mnt"), &options) else { return };
        let expected = Manifest::of_tree(overlay.path()).unwrap();
        assert!(expected.get("a").is_none() && expected.get("dir/y").is_some(), "the overlay obeys {prefix}");
        drop(overlay);
        assert_shown(&expected, &lower, &upper, &["--whiteout-spec=overlayfs"], prefix);
    }
}

/// What an overlay shows of a layer that a runtime has unpacked over `lower`.
fn unpacked(entries: &[Entry], dir: &Path, lower: &Path) -> Option<Manifest> {
    let upper = dir.join("unpacked");
    as_runtime(entries, &upper, lower);
    let overlay =
        Overlay::mount(&dir.join("mnt"), &format!("lowerdir={}:{}", upper.display(), lower.display()))?;
    Some(Manifest::of_tree(overlay.path()).unwrap())
}

#[test]
fn tars_show_what_a_runtime_that_unpacks_them_shows() {
    require_mounts!();
    let dir = tempfile::tempdir().unwrap();
    let lower = dir.path().join("lower");
    as_directory(&lower_layer(), &lower);
    let mut layer = vec![
        file(".wh.a", ""),
        file("dir/.wh.x", ""),
        // Directories that nobody has an entry for, in the lower layer and not.
        file("keep/new", "new"),
        file("made/deeper/f", "f"),
        file("opaque/new", "before the mark"),
        file("opaque/.wh..wh..opq", ""),
        file("opaque/new2", "behind it"),
        file(".wh.gone", ""),
        // Implied first, with an entry then.
        file("late/f", "f"),
        directory("late", 0o711),
        // Symlinks of this layer on the way: to a neighbour, absolute, and upwards beyond the root.
        directory("usr", 0o755),
        directory("usr/lib", 0o750),
        symlink("lib", "usr/lib"),
        file("lib/x", "in usr/lib"),
        file("lib/.wh.lower", ""),
        symlink("usr/up", "../../../../dir/sub"),
        directory("dir", 0o755),
        directory("dir/sub", 0o700),
        file("usr/up/new", "in dir/sub"),
        symlink("root", "/dir/.."),
        file("root/top", "at the top"),
        file("root/dir/sub/.wh.z", ""),
        directory("marked", 0o755).with("trusted.overlay.opaque", b"y").with("trusted.overlay.origin", b"o"),
    ];
    layer.extend(odd_names().map(|name| file([&b".wh."[..], &name].concat(), "")));
    let Some(expected) = unpacked(&layer, dir.path(), &lower) else { return };
    let tar = dir.path().join("tar");
    fs::write(&tar, as_tar(&layer)).unwrap();
    assert_shown(&expected, &lower, &tar, &["-t", "tar-rafs"], "a tar");
}

#[test]
fn directories_as_layers_keep_their_whiteouts_for_merge() {
    require_mounts!();
    let dir = tempfile::tempdir().unwrap();
    let [lower, upper] = ["lower", "upper"].map(|name| dir.path().join(name));
    as_directory(&lower_layer(), &lower);
    let layer = [
        directory("", 0o755),
        file(".wh.a", ""),
        file(".wh.bad\u{fffd}", "that is no name of the lower layer"),
        file([&b".wh."[..], &odd_names()[0]].concat(), ""),
        directory("dir", 0o755),
        file("dir/.wh.x", ""),
        file("dir/new", "new"),
        file(".wh.gone", ""),
        directory("opaque", 0o700),
        file("opaque/.wh..wh..opq", ""),
        file("opaque/new", "new"),
    ];
    as_directory(&layer, &upper);
    let Some(expected) = unpacked(&layer, dir.path(), &lower) else { return };
    assert_shown(&expected, &lower, &upper, &[], "a directory");
}

#[test]
fn equal_containers_give_equal_images() {
    require_mounts!();
    for (options, flag) in [
        ("", "--whiteout-spec=overlayfs"),
        (",uuid=on,index=on", "--whiteout-spec=oci"),
        (",userxattr", "--whiteout-spec=overlayfs"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut built = Vec::new();
        for name in ["one", "two"] {
            let home = dir.path().join(name);
            fs::create_dir(&home).unwrap();
            let lower = home.join("lower");
            as_directory(&lower_layer(), &lower);
            let Some(overlay) = writable(&home, &lower, options) else { return };
            use_it(overlay.path());
            drop(overlay);
            let upper = home.join("upper");
            let marks = xattr::list(upper.join("dir")).unwrap();
            assert!(marks.into_iter().any(|mark| mark.as_bytes().ends_with(b".overlay.origin")), "{options}");
            // A tree of the same files, which lie elsewhere.
            built.push(["-v5", "-v6"].map(|version| {
                let bootstrap = home.join(version);
                create(version, &bootstrap, &[flag], &upper).unwrap();
                let bytes = fs::read(&bootstrap).unwrap();
                assert!(!bytes.windows(14).any(|window| window == b"overlay.origin"), "{options}");
                bytes
            }));
        }
        assert!(built[0] == built[1], "{options}");
    }
}

#[test]
fn what_an_overlay_shows_of_elsewhere_is_refused_by_name() {
    require_mounts!();
    type Use = fn(&Path);
    let renamed: Use = |root| fs::rename(root.join("keep"), root.join("dir/renamed")).unwrap();
    let changed: Use = |root| {
        let owner = Some(70);
        std::os::unix::fs::chown(root.join("dir/sub/z"), owner, owner).unwrap();
    };
    for (what, name) in [(renamed, "\"/dir/renamed\""), (changed, "\"/dir/sub/z\"")] {
        let dir = tempfile::tempdir().unwrap();
        let lower = dir.path().join("lower");
        as_directory(&lower_layer(), &lower);
        let Some(overlay) = writable(dir.path(), &lower, ",redirect_dir=on,metacopy=on") else { return };
        what(overlay.path());
        drop(overlay);
        let upper = dir.path().join("upper");
        for version in ["-v5", "-v6"] {
            let [base, layer] = ["base", "layer"].map(|name| dir.path().join(format!("{name}{version}")));
            create(version, &base, &[], &lower).unwrap();
            let base = base.to_str().unwrap();
            for spec in ["oci", "overlayfs"] {
                for flags in
                    [&["--whiteout-spec", spec][..], &["--whiteout-spec", spec, "--parent-bootstrap", base]]
                {
                    let error = create(version, &layer, flags, &upper).unwrap_err();
                    assert!(error.contains(name) && error.contains("elsewhere"), "{flags:?}: {error}");
                }
            }
            create(version, &layer, &["--whiteout-spec=none"], &upper).unwrap();
            let merged = dir.path().join("merged");
            let paths = [&merged, &layer].map(|path| path.to_str().unwrap());
            let error = nydus_image(&["merge", "-C", base, "-B", paths[0], base, paths[1]]).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }
}
