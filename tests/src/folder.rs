//! A folder of a test's own, removed when dropped.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new folder; `name` must differ between tests that run at the same time.
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("ringway-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file whole and at once, as an editor or a deployment does: readers see the old one or the new one.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let (path, aside) = (self.join(name), self.join(&format!("{name}.new")));
        fs::write(&aside, bytes).expect("a file");
        fs::rename(&aside, &path).expect("a rename");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
