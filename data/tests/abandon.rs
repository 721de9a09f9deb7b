//! Giving up what is unfinished: a test of its own, as its process can finish no file afterwards.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rankwise_data::{Error, abandon_unfinished, write_atomic, write_folder};

static CAME_BACK: AtomicUsize = AtomicUsize::new(0);

#[test]
fn what_is_unfinished_goes_and_what_is_whole_stays() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_atomic(&at("whole"), |out| out.write_all(b"old")).unwrap();
    let (sender, begun) = mpsc::channel();
    let pause = || thread::sleep(Duration::from_millis(300));
    for name in ["whole", "other"] {
        let (path, sender) = (at(name), sender.clone());
        thread::spawn(move || {
            let _ = write_atomic(&path, |out| {
                out.write_all(b"new")?;
                sender.send(()).unwrap();
                pause();
                Ok(())
            });
            CAME_BACK.fetch_add(1, Ordering::Relaxed);
        });
    }
    let path = at("made");
    thread::spawn(move || {
        let _ = write_folder(&path, |inside| {
            write_atomic(&inside.join("file"), |out| out.write_all(b"new"))?;
            sender.send(()).unwrap();
            pause();
            // Its folder is gone.
            write_atomic(&inside.join("second"), |out| out.write_all(b"new"))?;
            Ok::<(), Error>(())
        });
        CAME_BACK.fetch_add(1, Ordering::Relaxed);
    });
    for _ in 0..3 {
        begun.recv().unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    assert_eq!(abandon_unfinished(folder.path()), [at("whole")]);
    thread::sleep(Duration::from_millis(900));
    assert_eq!(CAME_BACK.load(Ordering::Relaxed), 0);
    let left = fs::read_dir(folder.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [at("whole")]);
    assert_eq!(fs::read(at("whole")).unwrap(), b"old");
}
