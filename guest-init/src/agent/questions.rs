//! What the host asks about containers.

use protocol::{Answer, ContainerId, GuestMessage, Question, RequestId};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::process::Pid;

use super::{Agent, Role, shorten};
use crate::container::{Container, State};
use crate::errand::{Brought, Errand, MAX_ERRANDS};
use crate::failure::{Context, Failure, Result, failure};
use crate::usage;

impl Agent<'_> {
    /// Answers at once what takes no time, and sends a child for the rest.
    pub(super) fn ask(&mut self, container: ContainerId, request: RequestId, question: &Question) {
        let answer = match self.container_to_ask(&container) {
            Ok(known) if *question == Question::Usage => Ok(Some(Answer::Usage(usage::of(known.cgroup.path())))),
            Ok(_) => self.send_errand(&container, request, question).map(|()| None),
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(None) => {}
            Ok(Some(answer)) => self.answer(container, request, answer),
            Err(failure) => self.answer(container, request, Answer::Refused(failure.0)),
        }
    }

    fn container_to_ask(&self, id: &ContainerId) -> Result<&Container> {
        let known = self.containers.get(id).ok_or_else(|| Failure("no such container".to_owned()))?;
        match known.state {
            State::SettingUp(_) => failure("the container is not set up"),
            State::Ready(_) | State::Occupied | State::Over => Ok(known),
        }
    }

    fn send_errand(&mut self, id: &ContainerId, request: RequestId, question: &Question) -> Result<()> {
        if self.errands.len() >= MAX_ERRANDS || self.errands.contains_key(&request) {
            return failure("too many questions at a time");
        }
        let freezes = matches!(question, Question::Freeze | Question::Thaw);
        if let Some(known) = self.containers.get_mut(id).filter(|known| freezes && known.freezer.busy.is_some()) {
            if known.freezer.waiting.len() >= MAX_ERRANDS {
                return failure("too many questions at a time");
            }
            known.freezer.waiting.push_back((request, question.clone()));
            return Ok(());
        }
        let errand = Errand::begin(id, self.container_to_ask(id)?, question)?;
        if let Some(known) = self.containers.get_mut(id).filter(|_| freezes) {
            known.freezer.busy = Some(errand.child);
        }
        let key = self.new_key(Role::Errand(request));
        epoll::add(&self.epoll, &errand.answers, EventData::new_u64(key), EventFlags::IN)
            .context(|| "watch a child".to_owned())?;
        self.errands.insert(request, errand);
        Ok(())
    }

    /// A child that may have been a freeze or thaw is gone: what waited for it begins.
    pub(super) fn freezer_ended(&mut self, child: Pid) {
        let found = self.containers.iter_mut().find(|(_, known)| known.freezer.busy == Some(child));
        let Some((id, known)) = found else { return };
        known.freezer.busy = None;
        let (id, next) = (id.clone(), known.freezer.waiting.pop_front());
        if let Some((request, question)) = next {
            self.ask(id, request, &question);
        }
    }

    /// An errand has brought something. All of it is passed on; what it is for is the host's to know.
    pub(super) fn hear_errand(&mut self, request: RequestId) {
        while let Some(errand) = self.errands.get_mut(&request) {
            let container = errand.container.clone();
            match errand.listen() {
                None => return,
                Some(Brought::Part(answer)) => self.answer(container, request, answer),
                Some(Brought::Last(answer)) => {
                    self.forget_errand(request);
                    self.answer(container, request, answer);
                }
            }
        }
    }

    pub(super) fn give_errand_up(&mut self, request: RequestId) {
        self.hear_errand(request);
        let Some(errand) = self.errands.get(&request) else { return };
        errand.kill();
        let container = errand.container.clone();
        self.forget_errand(request);
        self.answer(container, request, Answer::Refused("it took too long".to_owned()));
    }

    fn forget_errand(&mut self, request: RequestId) {
        self.errands.remove(&request);
        self.roles.retain(|_, role| !matches!(role, Role::Errand(known) if *known == request));
    }

    fn answer(&self, container: ContainerId, request: RequestId, answer: Answer) {
        let answer = match answer {
            Answer::Refused(text) => Answer::Refused(shorten(text)),
            answer => answer,
        };
        self.say(&GuestMessage::Answer { container, request, answer });
    }
}
