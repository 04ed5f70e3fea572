//! A configuration in a file: read it, and notice when it has changed.
//!
//! Has no thread and sets no watches: the control thread polls. A poll is one `stat` unless the file
//! moved in the last seconds.
//! The path is followed through symbolic links each time, so that the swap of a link that Kubernetes does for
//! a `ConfigMap` is seen, as is an editor's rename. Called by the control thread only: it blocks on the disk.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::limits::CONFIG_BYTES_MAX;

#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    seen: Seen,
}

#[derive(Debug)]
enum Seen {
    Nothing,
    Content(Read, Vec<u8>),
    /// Reported once, then silent until it changes.
    Fault(FaultMark),
}

#[derive(Clone, Copy, Debug)]
struct Read {
    identity: Identity,
    /// The file was at rest when it was read. One that had just been written may be written again within the
    /// same tick of the filesystem's clock, and `stat` would not show it; so it is read once more.
    settled: bool,
}

/// What `stat` says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// Set by the kernel on every change, also where a tool puts the modification time back.
    changed: (i64, i64),
}

type Fault = (FaultMark, SourceError);
type FaultMark = (io::ErrorKind, Option<Identity>);

/// The file could not be read. The configuration in use stays as it was; the next change is tried again.
#[derive(Debug)]
pub enum SourceError {
    Io { path: PathBuf, error: io::Error },
    TooLarge { path: PathBuf },
}

impl FileSource {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        FileSource { path: path.into(), seen: Seen::Nothing }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content, if it is not the one that was returned last. The first call returns what is there. A
    /// failure is returned once, not with each poll.
    pub fn poll(&mut self) -> Option<Result<Vec<u8>, SourceError>> {
        let (read, content) = match self.read() {
            Ok(Some(read)) => read,
            Ok(None) => return None,
            Err((mark, error)) => {
                let known = matches!(&self.seen, Seen::Fault(seen) if *seen == mark);
                self.seen = Seen::Fault(mark);
                return (!known).then_some(Err(error));
            }
        };
        let same = matches!(&self.seen, Seen::Content(_, seen) if *seen == content);
        self.seen = Seen::Content(read, content.clone());
        (!same).then_some(Ok(content))
    }

    /// `None` if `stat` shows no change.
    fn read(&self) -> Result<Option<(Read, Vec<u8>)>, Fault> {
        let io_fault = |identity: Option<Identity>| {
            let path = self.path.clone();
            move |error: io::Error| ((error.kind(), identity), SourceError::Io { path, error })
        };
        // `stat` comes first: opening a FIFO would wait for a writer.
        let metadata = std::fs::metadata(&self.path).map_err(io_fault(None))?;
        let identity = Identity::of(&metadata);
        if matches!(&self.seen, Seen::Content(seen, _) if seen.identity == identity && seen.settled) {
            return Ok(None);
        }
        if !metadata.is_file() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(io_fault(Some(identity))(error));
        }
        let file = File::open(&self.path).map_err(io_fault(Some(identity)))?;
        // Of the open file, which a rename may have made another one meanwhile.
        let identity = Identity::of(&file.metadata().map_err(io_fault(Some(identity)))?);
        let settled = identity.is_settled();
        let mut content = Vec::new();
        file.take(CONFIG_BYTES_MAX as u64 + 1).read_to_end(&mut content).map_err(io_fault(Some(identity)))?;
        if content.len() > CONFIG_BYTES_MAX {
            let mark = (io::ErrorKind::FileTooLarge, Some(identity));
            return Err((mark, SourceError::TooLarge { path: self.path.clone() }));
        }
        Ok(Some((Read { identity, settled }, content)))
    }
}

impl Identity {
    /// Coarser than any filesystem's clock in use (FAT: 2 s).
    fn is_settled(&self) -> bool {
        const TICK: Duration = Duration::from_secs(3);
        let changed = UNIX_EPOCH + Duration::from_secs(self.changed.0.max(self.modified.0).max(0) as u64);
        SystemTime::now().duration_since(changed).is_ok_and(|age| age > TICK)
    }

    fn of(metadata: &std::fs::Metadata) -> Self {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceError::Io { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            SourceError::TooLarge { path } => {
                write!(f, "{} is larger than {CONFIG_BYTES_MAX} bytes", path.display())
            }
        }
    }
}

impl std::error::Error for SourceError {}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::{FileSource, SourceError};

    /// A directory of its own for each test, removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringway-source-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Directory(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn expect_content(source: &mut FileSource, expected: &str) {
        let content = source.poll().expect("a change").expect("readable");
        assert_eq!(String::from_utf8(content).unwrap(), expected);
        assert!(source.poll().is_none(), "a change is reported once");
    }

    #[test]
    fn reports_each_content_once() {
        let directory = Directory::new("content");
        let path = directory.0.join("a.yaml");
        fs::write(&path, "one").unwrap();
        let mut source = FileSource::new(&path);
        expect_content(&mut source, "one");
        fs::write(&path, "second").unwrap();
        expect_content(&mut source, "second");
        // Rewritten with what it held: touched, not changed.
        fs::write(directory.0.join("b.yaml"), "second").unwrap();
        fs::rename(directory.0.join("b.yaml"), &path).unwrap();
        assert!(source.poll().is_none());
        fs::write(directory.0.join("c.yaml"), "third!").unwrap();
        fs::rename(directory.0.join("c.yaml"), &path).unwrap();
        expect_content(&mut source, "third!");
    }

    #[test]
    fn follows_the_swap_of_a_link() {
        // As the kubelet does it: file -> ..data/file, ..data -> ..2026, and `..data` is renamed over.
        let directory = Directory::new("link");
        let root = &directory.0;
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("a.yaml"), text).unwrap();
        }
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
        let mut source = FileSource::new(root.join("a.yaml"));
        expect_content(&mut source, "one");
        symlink("..2", root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        expect_content(&mut source, "two");
    }

    #[test]
    fn a_failure_is_reported_once_and_recovers() {
        let directory = Directory::new("fault");
        let path = directory.0.join("a.yaml");
        let mut source = FileSource::new(&path);
        let error = source.poll().unwrap().unwrap_err();
        assert!(error.to_string().contains("cannot read"), "{error}");
        assert!(source.poll().is_none());
        fs::create_dir(&path).unwrap();
        let error = source.poll().unwrap().unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        assert!(source.poll().is_none());
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "back").unwrap();
        expect_content(&mut source, "back");
        fs::write(&path, vec![b'#'; super::CONFIG_BYTES_MAX + 1]).unwrap();
        assert!(matches!(source.poll(), Some(Err(SourceError::TooLarge { .. }))));
        assert!(source.poll().is_none());
    }
}
