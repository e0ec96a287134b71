use std::fs;

use super::super::Priority;
use super::super::laws::{self, Fixture, Object};
use super::*;

fn request() -> Request {
    Request::new(Priority::OnDemand, Instant::now() + Duration::from_secs(60))
}

fn id(name: &str) -> BlobId {
    BlobId::new(name).unwrap()
}

fn in_dirs(dirs: &[&Path]) -> LocalFs {
    let mut dirs = dirs.iter().map(|dir| dir.to_path_buf());
    let config = LocalFsConfig { blob_file: None, dir: dirs.next(), alt_dirs: dirs.collect() };
    LocalFs::new(config).unwrap()
}

async fn read(fs: &LocalFs, name: &str) -> Result<Bytes> {
    fs.read(&id(name), 0, 3, request()).await
}

fn store(dir: &Path, objects: &[Object]) {
    for object in objects {
        fs::write(dir.join(object.id.as_str()), &object.content).unwrap();
    }
}

#[tokio::test]
async fn keeps_the_laws() {
    laws::all(async |objects| {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path(), &objects);
        Fixture { backend: Arc::new(in_dirs(&[dir.path()])), keep: Box::new(dir) }
    })
    .await;
}

#[tokio::test]
async fn keeps_the_laws_over_several_directories() {
    laws::all(async |objects| {
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        for (dir, object) in dirs.iter().zip(&objects) {
            store(dir.path(), std::slice::from_ref(object));
        }
        // Empty files are passed over.
        fs::write(dirs[0].path().join(objects[2].id.as_str()), b"").unwrap();
        let paths: Vec<_> = dirs.iter().map(|dir| dir.path()).collect();
        Fixture { backend: Arc::new(in_dirs(&paths)), keep: Box::new(dirs) }
    })
    .await;
}

#[test]
fn needs_a_file_or_a_directory() {
    let config = LocalFsConfig { alt_dirs: vec!["/tmp".into()], ..LocalFsConfig::default() };
    assert!(matches!(LocalFs::new(config), Err(Error::Invalid { .. })));
}

#[tokio::test]
async fn one_file_for_every_blob() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let config = LocalFsConfig { blob_file: Some(path.clone()), ..LocalFsConfig::default() };
    let fs = LocalFs::new(config).unwrap();
    let err = read(&fs, "any").await.unwrap_err();
    assert!(matches!(&err, Error::NotFound { place, .. } if *place == path.display().to_string()), "{err}");
    fs::write(&path, b"one two").unwrap();
    assert_eq!(read(&fs, "any").await.unwrap(), "one");
    assert_eq!(read(&fs, "other").await.unwrap(), "one");
}

#[tokio::test]
async fn not_found_names_every_place() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(first.path().join("x"), b"").unwrap();
    let err = read(&in_dirs(&[first.path(), second.path()]), "x").await.unwrap_err();
    let Error::NotFound { what, place } = err else { panic!("{err}") };
    let expected =
        format!("{} (empty), {}", first.path().join("x").display(), second.path().join("x").display());
    assert_eq!((what.as_str(), place), ("localfs: blob x", expected));
}

#[tokio::test]
async fn what_cannot_be_opened_is_not_looked_for_elsewhere() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(first.path().join("dir")).unwrap();
    fs::write(second.path().join("dir"), b"one").unwrap();
    nix::unistd::mkfifo(&first.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fs = in_dirs(&[first.path(), second.path()]);
    for name in ["dir", "fifo"] {
        let err = read(&fs, name).await.unwrap_err();
        assert!(matches!(err, Error::Invalid { .. }), "{err}");
    }
}

#[tokio::test]
async fn a_file_that_appears_or_grows_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let fs = in_dirs(&[dir.path()]);
    assert!(matches!(read(&fs, "x").await, Err(Error::NotFound { .. })));
    fs::write(dir.path().join("x"), b"on").unwrap();
    assert!(matches!(read(&fs, "x").await, Err(Error::Corrupt { .. })));
    fs::write(dir.path().join("x"), b"one").unwrap();
    assert_eq!(read(&fs, "x").await.unwrap(), "one");
    fs::write(dir.path().join("x"), b"one two").unwrap();
    assert_eq!(fs.read(&id("x"), 4, 3, request()).await.unwrap(), "two");
    assert_eq!(fs.size(&id("x"), request()).await.unwrap(), 7);
}

#[tokio::test]
async fn a_replaced_file_is_found_after_an_error_and_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let replace = |content: &str| {
        fs::write(dir.path().join("new"), content).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
    };
    let fs = in_dirs(&[dir.path()]);
    replace("one");
    assert_eq!(read(&fs, "x").await.unwrap(), "one");
    replace("two three");
    // Beyond the end of the old file, which would be an error.
    assert_eq!(fs.read(&id("x"), 4, 5, request()).await.unwrap(), "three");
    replace("six");
    assert_eq!(read(&fs, "x").await.unwrap(), "two", "the open file is trusted for a while");
    let past = Instant::now().checked_sub(TRUST).unwrap();
    fs.files.lock().files.get_mut(&id("x")).unwrap().checked = past;
    assert_eq!(read(&fs, "x").await.unwrap(), "six");
}

#[tokio::test]
async fn open_files_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let fs = in_dirs(&[dir.path()]);
    fs::write(dir.path().join("first"), b"one").unwrap();
    for number in 0..=MAX_OPEN {
        fs::write(dir.path().join(number.to_string()), b"one").unwrap();
        read(&fs, &number.to_string()).await.unwrap();
        read(&fs, "first").await.unwrap();
    }
    let open = fs.files.lock();
    assert_eq!(open.files.len(), MAX_OPEN);
    assert!(open.files.contains_key(&id("first")), "what is used most recently stays");
    assert!(!open.files.contains_key(&id("0")), "what was used longest ago goes");
}

#[tokio::test]
async fn a_stalled_filesystem_costs_deadlines_and_then_works_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x"), b"one").unwrap();
    let fs = Arc::new(in_dirs(&[dir.path()]));
    // As if each thread sat in a system call.
    let (gates, stuck): (Vec<_>, Vec<_>) = (0..LIMITS.threads)
        .map(|_| {
            let (gate, opened) = std::sync::mpsc::channel::<()>();
            let (started, begun) = tokio::sync::oneshot::channel();
            let fs = fs.clone();
            let waiter = tokio::spawn(async move {
                let work = move || {
                    started.send(()).unwrap();
                    let _ = opened.recv();
                    Ok(())
                };
                fs.pool.run(|| "stuck".into(), request(), work).await
            });
            (gate, (begun, waiter))
        })
        .unzip();
    let mut waiters = Vec::new();
    for (begun, waiter) in stuck {
        begun.await.unwrap();
        waiters.push(waiter);
    }
    let limit = Duration::from_millis(100);
    let start = Instant::now();
    let readers: Vec<_> = (0..200)
        .map(|_| {
            let fs = fs.clone();
            let request = Request { deadline: start + limit, ..request() };
            tokio::spawn(async move { fs.read(&id("x"), 0, 3, request).await })
        })
        .collect();
    for reader in readers {
        let err = reader.await.unwrap().unwrap_err();
        assert!(matches!(err, Error::TimedOut { .. }), "{err}");
    }
    assert!(start.elapsed() >= limit);
    drop(gates);
    assert_eq!(read(&fs, "x").await.unwrap(), "one");
    for waiter in waiters {
        waiter.await.unwrap().unwrap();
    }
}
