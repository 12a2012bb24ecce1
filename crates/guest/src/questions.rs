//! Questions that wait for their answers.
//!
//! ```text
//!  ask ──▶ Open ──(answer that fits)──▶ forgotten: Answered
//!           └──(too slow)──▶ Late: Answered with a refusal ──(answer that fits)──▶ forgotten
//! ```
//!
//! A guest that is slow to answer is no reason to end its container, so a question that timed out is only answered by
//! a refusal. It stays known until its answer comes: a guest that never answers comes to [`MAX_QUESTIONS`], from where
//! on nothing more is asked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol::{Answer, ContainerId, MAX_PROCESS_ROWS, MAX_ROW_ARGV, ProcessRow, Question, RequestId};

use crate::conversation::clean;
use crate::{Reply, RequestError};

/// Most questions that wait for their answers.
pub const MAX_QUESTIONS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Freeze,
    Thaw,
    Usage,
    Processes,
    SetLimits,
}

impl From<&Question> for Kind {
    fn from(question: &Question) -> Self {
        match question {
            Question::Freeze => Self::Freeze,
            Question::Thaw => Self::Thaw,
            Question::Usage => Self::Usage,
            Question::Processes => Self::Processes,
            Question::SetLimits(_) => Self::SetLimits,
        }
    }
}

#[derive(Debug)]
struct Open {
    container: ContainerId,
    kind: Kind,
    /// `None`: it is late, and was answered by a refusal.
    until: Option<Instant>,
    /// Of [`Kind::Processes`], so far.
    rows: Vec<ProcessRow>,
}

/// An answer that fits no question.
#[derive(Debug)]
pub(crate) struct Misfit(pub(crate) &'static str);

/// The questions that were not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    open: BTreeMap<RequestId, Open>,
    last: u32,
}

impl Questions {
    pub(crate) fn ask(
        &mut self,
        container: &ContainerId,
        question: &Question,
        until: Instant,
    ) -> Result<RequestId, RequestError> {
        if self.open.len() >= MAX_QUESTIONS {
            return Err(RequestError::TooManyQuestions);
        }
        self.last = self.last.checked_add(1).ok_or(RequestError::TooManyQuestions)?;
        let request = RequestId(self.last);
        let (container, kind) = (container.clone(), Kind::from(question));
        self.open.insert(request, Open { container, kind, until: Some(until), rows: Vec::new() });
        Ok(request)
    }

    pub(crate) fn retract(&mut self, request: RequestId) {
        self.open.remove(&request);
    }

    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }

    /// The reply to report, if there is one now: not for a part of an answer, nor for what came too late.
    pub(crate) fn answer(
        &mut self,
        container: &ContainerId,
        request: RequestId,
        answer: Answer,
    ) -> Result<Option<Reply>, Misfit> {
        let known = self.open.get_mut(&request).filter(|open| open.container == *container);
        let open = known.ok_or(Misfit("to a question that was not asked"))?;
        let reply = match (open.kind, answer) {
            (_, Answer::Refused(text)) => Reply::Refused(clean(&text)),
            (Kind::Freeze, Answer::Frozen) => Reply::Frozen,
            (Kind::Thaw, Answer::Thawed) => Reply::Thawed,
            (Kind::Usage, Answer::Usage(usage)) => Reply::Usage(usage),
            (Kind::SetLimits, Answer::LimitsSet) => Reply::LimitsSet,
            (Kind::Processes, Answer::Processes { rows, last }) => {
                if !last && rows.is_empty() || open.rows.len() + rows.len() > MAX_PROCESS_ROWS {
                    return Err(Misfit("with too many parts"));
                }
                // Nobody waits for what is late.
                if open.until.is_some() || !last {
                    open.rows.extend(rows.into_iter().map(clean_row));
                }
                if !last {
                    return Ok(None);
                }
                Reply::Processes(std::mem::take(&mut open.rows))
            }
            _ => return Err(Misfit("that is no answer to its question")),
        };
        let is_late = open.until.is_none();
        self.open.remove(&request);
        Ok((!is_late).then_some(reply))
    }

    /// When [`Questions::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.open.values().filter_map(|open| open.until).min()
    }

    /// Gives every question that waits so much more time.
    pub(crate) fn postpone(&mut self, by: Duration) {
        for until in self.open.values_mut().filter_map(|open| open.until.as_mut()) {
            *until += by;
        }
    }

    /// Gives up what takes too long, and says what.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(ContainerId, RequestId, Reply)> {
        let mut expired = Vec::new();
        for (request, open) in &mut self.open {
            if open.until.is_some_and(|until| until <= now) {
                open.until = None;
                let reply = Reply::Refused("the guest did not answer in time".to_owned());
                expired.push((open.container.clone(), *request, reply));
            }
        }
        expired
    }
}

fn clean_row(mut row: ProcessRow) -> ProcessRow {
    row.user = row.user.map(|user| clean(&user));
    row.tty = clean(&row.tty);
    row.argv.truncate(MAX_ROW_ARGV);
    if !row.state.is_ascii_alphabetic() {
        row.state = b'?';
    }
    row
}
