//! A page in a browser without a window.

use std::fs;
use std::process::Command;

/// The page after its script ran, as text, with what the browser's console said.
pub fn opened(html: &str, fragment: &str) -> Option<String> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok());
    let Some(browser) = found else {
        eprintln!("skipped: none of {names:?} is installed");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    fs::write(&path, html).unwrap();
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
        ])
        .args(["--disable-sync", "--enable-logging=stderr", "--dump-dom"])
        .arg("--virtual-time-budget=10000")
        .arg(format!(
            "--user-data-dir={}",
            folder.path().join("p").display()
        ))
        .arg(format!("file://{}#{fragment}", path.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect();
    assert!(said.is_empty(), "{said:?}");
    let dom = String::from_utf8(output.stdout).unwrap();
    assert!(dom.contains("data-ready=\"yes\""), "the script did not end");
    assert!(!dom.contains("data-error"), "{dom}");
    Some(dom)
}
