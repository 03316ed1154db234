//! How an exec or attach ended, as it is told on the error stream.
//!
//! What always holds: it is the last thing that is said of a session, after all output.

#![forbid(unsafe_code)]

use bytes::Bytes;
use serde_json::json;

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Nothing when all is well, otherwise a message: before version 4.
    Text,
    /// A `metav1.Status`, from version 4 on.
    Json,
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    ExitCode(u32),
    Failed(String),
}

impl Outcome {
    /// `None`: nothing is written.
    pub fn write(&self, form: Form) -> Option<Bytes> {
        let text = match (form, self) {
            (Form::Json, _) => self.status().to_string(),
            (Form::Text, Self::Success) => return None,
            (Form::Text, _) => self.message(),
        };
        Some(text.into())
    }

    fn message(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::ExitCode(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Self::Failed(why) => format!("Internal error occurred: {why}"),
        }
    }

    fn status(&self) -> serde_json::Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::ExitCode(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.message(),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(_) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.message(),
                "reason": "InternalError",
                "code": 500,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_a_cause_of_a_failure() {
        let written = Outcome::ExitCode(3).write(Form::Json).unwrap();
        let status: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(Outcome::Success.write(Form::Text), None);
        assert!(Outcome::Failed("no".into()).write(Form::Text).unwrap().ends_with(b"no"));
    }
}
