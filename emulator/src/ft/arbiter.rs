//! The arbiter in a directory that both hosts reach, and the thread that asks it.
//!
//! A key is a file that holds its owner's token. It is set by writing the token to a file of the asker's own, bringing that to the
//! medium, and linking it to the key's name: `link()` succeeds for one of all who try, also over NFS. The answer is read back
//! from the key itself, so a lost reply of `link()` does no harm.
//!
//! ```text
//!   DIRECTORY/VM/INCARNATION/start       who began this incarnation
//!   DIRECTORY/VM/INCARNATION/pair-EPOCH  the pair that was formed
//!   DIRECTORY/VM/INCARNATION/epoch-EPOCH who runs alone after it
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use virtft_ft::{Answer, EpochKey};

use crate::cli::OptionError;

/// Longest name of a VM.
const NAME_LIMIT: usize = 64;
/// Longest content of a key that is looked at.
const TOKEN_LIMIT: u64 = 200;

/// Where the arbiter is: `dir:/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArbiterOption(pub PathBuf);

impl FromStr for ArbiterOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text.strip_prefix("dir:") {
            Some(path) if path.starts_with('/') => Ok(Self(path.into())),
            _ => Err(OptionError::BadValue {
                what: "arbiter",
                value: text.to_owned(),
                hint: "write dir:/PATH, a directory that both hosts reach",
            }),
        }
    }
}

/// Checks a name that becomes a file name.
///
/// # Errors
/// One line that says what a name may be.
pub fn check_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_LIMIT || name.starts_with('.') || !name.chars().all(good) {
        return Err(format!(
            "'{name}' is no name for a VM: write 1 to {NAME_LIMIT} letters, digits, '.', '_' or '-', not a '.' first"
        ));
    }
    Ok(())
}

/// The directory, and whose questions these are.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
    bytes: [u8; 16],
    token: String,
}

impl Directory {
    /// A directory and the asker's token.
    #[must_use]
    pub fn new(option: &ArbiterOption, token: [u8; 16]) -> Self {
        Self { root: option.0.clone(), bytes: token, token: hex(token) }
    }

    fn folder(&self, vm: &str, incarnation: u64) -> PathBuf {
        self.root.join(vm).join(incarnation.to_string())
    }

    /// Begins a new incarnation of a VM.
    ///
    /// # Errors
    /// One line when the directory cannot be used.
    pub fn begin(&self, vm: &str) -> Result<u64, String> {
        let failed = |error: io::Error| {
            format!(
                "arbiter dir:{}: it cannot be used ({error}); both hosts must be able to write there",
                self.root.display()
            )
        };
        if !self.root.is_dir() {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        let folder = self.root.join(vm);
        fs::create_dir_all(&folder).map_err(failed)?;
        let numbers =
            fs::read_dir(&folder).map_err(failed)?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut incarnation = numbers.max().unwrap_or(0_u64);
        loop {
            incarnation += 1;
            let folder = self.folder(vm, incarnation);
            fs::create_dir_all(&folder).map_err(failed)?;
            if self.set(&folder, "start").map_err(failed)? {
                return Ok(incarnation);
            }
        }
    }

    /// Incarnation and epoch that the newest life of a VM has come to; `None` when it never ran.
    ///
    /// # Errors
    /// One line when the directory cannot be used.
    pub fn latest(&self, vm: &str) -> Result<Option<(u64, u64)>, String> {
        let failed = |error: io::Error| format!("arbiter dir:{}: it cannot be used ({error})", self.root.display());
        let names = |folder: &Path| match fs::read_dir(folder) {
            Ok(entries) => {
                Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect::<Vec<_>>())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let folder = self.root.join(vm);
        let incarnations = names(&folder).map_err(failed)?.into_iter().filter_map(|name| name.parse().ok());
        // One that nobody won never ran.
        let begun = |number: &u64| self.folder(vm, *number).join("start").exists();
        let Some(incarnation) = incarnations.filter(begun).max() else { return Ok(None) };
        let keys = names(&self.folder(vm, incarnation)).map_err(failed)?;
        let decided = keys.iter().filter_map(|name| name.strip_prefix("epoch-")?.parse::<u64>().ok()).max();
        Ok(Some((incarnation, decided.unwrap_or(0) + 1)))
    }

    /// Before a VM starts again: decides the epoch of its last pair, if nobody has, so that a backup that still waits can never take
    /// over beside it.
    ///
    /// # Errors
    /// One line when the backup has won it, or the directory cannot be used.
    pub fn close_last(&self, vm: &str) -> Result<(), String> {
        let Some((incarnation, epoch)) = self.latest(vm)? else { return Ok(()) };
        let key = EpochKey { vm: vm.into(), incarnation, epoch };
        if !self.folder(vm, incarnation).join(format!("pair-{epoch}")).exists() {
            return Ok(());
        }
        match self.test_and_set(&key) {
            Answer::Won => Ok(()),
            Answer::Lost => {
                Err(format!("'{vm}' is being taken over by its backup: look where it runs before it is started again"))
            }
            Answer::Unreachable => Err(format!("arbiter dir:{}: it does not answer", self.root.display())),
        }
    }

    /// Sets a key if nobody has. Returns whether it has this asker's token.
    fn set(&self, folder: &Path, key: &str) -> io::Result<bool> {
        let own = folder.join(format!(".{}-{key}", self.token));
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&own)?;
        file.write_all(self.token.as_bytes())?;
        file.sync_all()?;
        let key = folder.join(key);
        match fs::hard_link(&own, &key) {
            // Whether it was linked is read from the key: an answer may get lost.
            Ok(()) | Err(_) => {}
        }
        let _ = fs::remove_file(&own);
        File::open(folder)?.sync_all()?;
        Ok(self.owner(&key)? == self.token)
    }

    /// Who may run alone after an epoch.
    pub fn test_and_set(&self, key: &EpochKey) -> Answer {
        match self.set(&self.folder(&key.vm, key.incarnation), &format!("epoch-{}", key.epoch)) {
            Ok(true) => Answer::Won,
            Ok(false) => Answer::Lost,
            Err(error) => {
                tracing::warn!("arbiter dir:{}: {error}; the VM waits for it", self.root.display());
                Answer::Unreachable
            }
        }
    }

    /// Notes durably that a pair was formed.
    pub fn record(&self, key: &EpochKey) -> bool {
        match self.set(&self.folder(&key.vm, key.incarnation), &format!("pair-{}", key.epoch)) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(
                    "arbiter dir:{}: {error}; the VM is not protected before it answers",
                    self.root.display()
                );
                false
            }
        }
    }
}

impl Directory {
    /// This asker's token.
    #[must_use]
    pub fn token(&self) -> [u8; 16] {
        self.bytes
    }

    /// Whether the pair of an epoch was recorded with this token; `None` when the directory does not answer.
    pub fn confirm(&self, key: &EpochKey, token: [u8; 16]) -> Option<bool> {
        match self.owner(&self.folder(&key.vm, key.incarnation).join(format!("pair-{}", key.epoch))) {
            Ok(owner) => Some(owner == hex(token)),
            // The whole root must be there, or this says nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.root.is_dir() => Some(false),
            Err(error) => {
                tracing::warn!(
                    "arbiter dir:{}: {error}; the VM is not protected before it answers",
                    self.root.display()
                );
                None
            }
        }
    }

    fn owner(&self, key: &Path) -> io::Result<String> {
        let mut owner = String::new();
        File::open(key)?.take(TOKEN_LIMIT).read_to_string(&mut owner)?;
        Ok(owner)
    }
}

fn hex(token: [u8; 16]) -> String {
    token.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A question to the arbiter.
#[derive(Debug)]
pub enum Question {
    /// See [`Directory::test_and_set`].
    TestAndSet(EpochKey),
    /// See [`Directory::record`].
    Record(EpochKey),
    /// See [`Directory::confirm`].
    Confirm(EpochKey, [u8; 16]),
}

/// What came of it.
#[derive(Debug)]
pub enum Reply {
    /// To `TestAndSet`.
    Answered(EpochKey, Answer),
    /// To `Record`.
    Recorded(EpochKey, bool),
    /// To `Confirm`.
    Confirmed(Option<bool>),
}

/// Asks on a thread of its own: a directory on a network may take its time.
#[derive(Debug)]
pub struct ArbiterThread {
    questions: Option<Sender<Question>>,
    replies: Receiver<Reply>,
    thread: Option<JoinHandle<()>>,
}

impl ArbiterThread {
    /// Starts the thread; `wake` is called when there is a reply.
    ///
    /// # Errors
    /// When there are no more threads.
    pub fn start(directory: Directory, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (questions, asked) = channel();
        let (sender, replies) = channel();
        let thread = std::thread::Builder::new().name("arbiter".into()).spawn(move || {
            for question in asked {
                let reply = match question {
                    Question::TestAndSet(key) => Reply::Answered(key.clone(), directory.test_and_set(&key)),
                    Question::Record(key) => Reply::Recorded(key.clone(), directory.record(&key)),
                    Question::Confirm(key, token) => Reply::Confirmed(directory.confirm(&key, token)),
                };
                if sender.send(reply).is_err() {
                    return;
                }
                wake();
            }
        })?;
        Ok(Self { questions: Some(questions), replies, thread: Some(thread) })
    }

    /// Asks; the reply comes later.
    pub fn ask(&self, question: Question) {
        // The thread lives as long as this does.
        let _ = self.questions.as_ref().map(|questions| questions.send(question));
    }

    /// The next reply, if there is one.
    #[must_use]
    pub fn reply(&self) -> Option<Reply> {
        self.replies.try_recv().ok()
    }
}

impl Drop for ArbiterThread {
    fn drop(&mut self) {
        drop(self.questions.take());
        // A directory that hangs must not keep the process from ending.
        drop(self.thread.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(epoch: u64) -> EpochKey {
        EpochKey { vm: "guest".into(), incarnation: 1, epoch }
    }

    #[test]
    fn one_of_many_wins_and_wins_again() {
        let folder = tempfile::tempdir().unwrap();
        let option = ArbiterOption(folder.path().to_owned());
        assert_eq!(Directory::new(&option, [9; 16]).begin("guest"), Ok(1));
        let asked: Vec<_> = (0..8_u8)
            .map(|number| {
                let directory = Directory::new(&option, [number; 16]);
                std::thread::spawn(move || (number, directory.test_and_set(&key(1))))
            })
            .collect();
        let answers: Vec<_> = asked.into_iter().map(|thread| thread.join().unwrap()).collect();
        let winners: Vec<_> = answers.iter().filter(|(_, answer)| *answer == Answer::Won).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        assert!(answers.iter().all(|(_, answer)| *answer != Answer::Unreachable));
        let winner = Directory::new(&option, [winners[0].0; 16]);
        assert_eq!(winner.test_and_set(&key(1)), Answer::Won, "asking again changes nothing");
        assert_eq!(winner.confirm(&key(1), [9; 16]), Some(false), "nobody has recorded the pair");
        assert!(winner.record(&key(1)));
        let other = Directory::new(&option, [77; 16]);
        assert_eq!(other.confirm(&key(1), winner.token()), Some(true));
        assert_eq!(other.confirm(&key(1), [1; 16]), Some(winner.token() == [1; 16]));
    }

    #[test]
    fn incarnations_are_never_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::new(&ArbiterOption(folder.path().to_owned()), [1; 16]);
        let other = Directory::new(&ArbiterOption(folder.path().to_owned()), [2; 16]);
        assert_eq!(
            [directory.begin("a"), other.begin("a"), directory.begin("a"), other.begin("b")],
            [Ok(1), Ok(2), Ok(3), Ok(1)]
        );
    }

    #[test]
    fn a_new_start_closes_the_epoch_of_the_last_pair() {
        let folder = tempfile::tempdir().unwrap();
        let option = ArbiterOption(folder.path().to_owned());
        let [first, again, backup] = [1, 2, 3].map(|number| Directory::new(&option, [number; 16]));
        assert_eq!(again.close_last("guest"), Ok(()), "a VM that never ran");
        assert_eq!(first.begin("guest"), Ok(1));
        assert_eq!(again.close_last("guest"), Ok(()), "one that was never protected");
        assert!(first.record(&key(1)));
        assert_eq!(again.close_last("guest"), Ok(()));
        assert_eq!(backup.test_and_set(&key(1)), Answer::Lost, "the backup comes too late");
        assert!(first.record(&key(2)));
        assert_eq!(backup.test_and_set(&key(2)), Answer::Won);
        assert!(first.record(&key(3)));
        assert_eq!(first.latest("guest"), Ok(Some((1, 3))));
    }

    #[test]
    fn a_directory_that_is_gone_decides_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::new(&ArbiterOption(folder.path().to_owned()), [1; 16]);
        assert_eq!(directory.begin("guest"), Ok(1));
        fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!(directory.test_and_set(&key(1)), Answer::Unreachable);
        assert!(!directory.record(&key(1)));
        assert_eq!(directory.confirm(&key(1), [1; 16]), None);
        assert!(directory.begin("guest").unwrap_err().contains("cannot be used"));
    }

    #[test]
    fn names_become_files_safely() {
        assert!(check_name("web-1.example").is_ok());
        for bad in ["", "..", ".x", "a/b", "ä", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
