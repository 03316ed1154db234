//! A terminal emulator of a test's own: tmux, without configuration, with a server that nobody else uses. What it shows is what
//! a person would see.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::daemon::{PATIENCE, run};

/// One window.
pub struct Tmux {
    folder: tempfile::TempDir,
}

impl Tmux {
    /// A window of that size with a shell in it.
    pub fn new(columns: u16, rows: u16) -> Tmux {
        let folder = tempfile::tempdir().expect("a folder");
        let tmux = Tmux { folder };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        tmux.tell(&["new-session", "-d", "-x", &columns, "-y", &rows, "env PS1='here> ' TERM=screen sh"]);
        tmux.expect("here>");
        tmux
    }

    fn tell(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.folder.path().join("socket")).args(["-f", "/dev/null"]).args(arguments);
        // Within another tmux it would refuse.
        command.env_remove("TMUX").env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
        run(&mut command).expect("tmux runs").ok().stdout
    }

    /// Types text as it is.
    pub fn type_text(&self, text: &str) {
        self.tell(&["send-keys", "-l", text]);
    }

    /// Presses keys by tmux's names: `Enter`, `C-c`, `Escape`, …
    pub fn press(&self, keys: &[&str]) {
        let mut arguments = vec!["send-keys"];
        arguments.extend(keys);
        self.tell(&arguments);
    }

    /// Types a line and presses Enter.
    pub fn enter(&self, line: &str) {
        self.type_text(line);
        self.press(&["Enter"]);
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.tell(&["capture-pane", "-p"])
    }

    /// Waits until the screen shows something.
    #[track_caller]
    pub fn expect(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if screen.contains(text) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "waited {PATIENCE:?} in vain for {text:?}; the screen shows:\n{screen}"
            );
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        self.tell(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// The settings of the terminal, as stty writes them.
    pub fn settings(&self) -> String {
        let terminal = self.tell(&["display-message", "-p", "#{pane_tty}"]);
        run(Command::new("stty").arg("-F").arg(terminal.trim()).arg("-g")).expect("stty runs").ok().stdout
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.folder.path().join("socket")).arg("kill-server");
        let _ = command.env_remove("TMUX").output();
    }
}
