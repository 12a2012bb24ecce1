//! Questions: guests that answer what was not asked, something else, in parts without end, late or never.

use std::time::{Duration, Instant};

use guest::{
    Awaited, Conversation, Event, GuestError, MAX_PROCESSES, MAX_QUESTIONS, Reply, RequestError, StdioRequest, Timeouts,
};
use protocol::*;

const NONE: StdioRequest = StdioRequest::Pipes { stdin: false, stdout: false, stderr: false };

/// A conversation with a container.
struct Talk {
    conversation: Conversation<()>,
    now: Instant,
    events: Vec<Event<()>>,
}

fn id() -> ContainerId {
    ContainerId("c".to_owned())
}

impl Talk {
    fn new() -> Self {
        let now = Instant::now();
        let mut talk = Self { conversation: Conversation::new(Timeouts::default(), now), now, events: Vec::new() };
        let hello = Hello { version: VERSION, kernel_release: String::new(), init_started: 0, sent: 0 };
        talk.hear(GuestMessage::Hello(hello)).unwrap();
        talk.conversation.create(id(), ContainerConfig::default(), now).unwrap();
        talk.hear(GuestMessage::Created { container: id() }).unwrap();
        talk.events.clear();
        talk
    }

    fn hear(&mut self, message: GuestMessage) -> Result<(), GuestError> {
        self.conversation.receive(message, self.now, &mut self.events)
    }

    fn ask(&mut self, question: Question) -> Result<RequestId, RequestError> {
        let (request, message) = self.conversation.ask(&id(), question.clone(), self.now)?;
        assert_eq!(message, HostMessage::Ask { container: id(), request, question });
        Ok(request)
    }

    fn answer(&mut self, request: RequestId, answer: Answer) -> Result<(), GuestError> {
        self.hear(GuestMessage::Answer { container: id(), request, answer })
    }

    /// The replies since the last call.
    fn replies(&mut self) -> Vec<(RequestId, Reply)> {
        let reply = |event| match event {
            Event::Answered { request, reply, .. } => (request, reply),
            event => panic!("{event:?}"),
        };
        self.events.drain(..).map(reply).collect()
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.conversation.expire(self.now, &mut self.events).unwrap();
    }
}

fn rows(count: usize) -> Vec<ProcessRow> {
    vec![ProcessRow::default(); count]
}

#[test]
fn each_question_has_its_answer() {
    let mut talk = Talk::new();
    let limits = Limits { memory: Some(1), ..Limits::default() };
    let questions = [Question::Freeze, Question::Thaw, Question::Usage, Question::SetLimits(limits), Question::Usage];
    let asked = questions.map(|question| talk.ask(question).unwrap());
    let usage = Usage { memory: 7, ..Usage::default() };
    // In any order.
    talk.answer(asked[3], Answer::LimitsSet).unwrap();
    talk.answer(asked[2], Answer::Usage(usage)).unwrap();
    talk.answer(asked[1], Answer::Thawed).unwrap();
    talk.answer(asked[0], Answer::Frozen).unwrap();
    talk.answer(asked[4], Answer::Refused("no\u{1b}[2J".to_owned())).unwrap();
    let expected = [
        (asked[3], Reply::LimitsSet),
        (asked[2], Reply::Usage(usage)),
        (asked[1], Reply::Thawed),
        (asked[0], Reply::Frozen),
        (asked[4], Reply::Refused("no\u{fffd}[2J".to_owned())),
    ];
    assert_eq!(talk.replies(), expected);
    assert_eq!(talk.conversation.deadline(), None);
}

#[test]
fn rows_come_in_parts() {
    let mut talk = Talk::new();
    let asked = talk.ask(Question::Processes).unwrap();
    let odd = ProcessRow {
        user: Some("\u{7}x".to_owned()),
        state: 0x1b,
        tty: "t".repeat(10_000),
        argv: vec![b'a'; 60_000],
        ..ProcessRow::default()
    };
    talk.answer(asked, Answer::Processes { rows: vec![odd], last: false }).unwrap();
    assert!(talk.events.is_empty());
    talk.answer(asked, Answer::Processes { rows: rows(3), last: false }).unwrap();
    talk.answer(asked, Answer::Processes { rows: vec![], last: true }).unwrap();
    let replies = talk.replies();
    let [(_, Reply::Processes(rows))] = replies.as_slice() else { panic!("{replies:?}") };
    assert_eq!((rows.len(), rows[0].user.as_deref(), rows[0].state), (4, Some("\u{fffd}x"), b'?'));
    assert_eq!((rows[0].argv.len(), rows[0].tty.len()), (MAX_ROW_ARGV, guest::MAX_TEXT));
    // A guest may give up in the middle.
    let asked = talk.ask(Question::Processes).unwrap();
    talk.answer(asked, Answer::Processes { rows: vec![ProcessRow::default()], last: false }).unwrap();
    talk.answer(asked, Answer::Refused("died".to_owned())).unwrap();
    assert_eq!(talk.replies(), [(asked, Reply::Refused("died".to_owned()))]);
}

/// What fits no question ends the session.
#[test]
fn answers_that_fit_nothing() {
    let ends = |prepare: fn(&mut Talk) -> RequestId, answer: Answer| {
        let mut talk = Talk::new();
        let request = prepare(&mut talk);
        let error = talk.answer(request, answer.clone()).unwrap_err();
        assert!(matches!(error, GuestError::OutOfOrder { message: "Answer", .. }), "{answer:?}: {error}");
        assert!(talk.conversation.has_ended());
    };
    ends(|_| RequestId(1), Answer::Frozen);
    ends(|_| RequestId(0), Answer::Refused(String::new()));
    let freeze = |talk: &mut Talk| talk.ask(Question::Freeze).unwrap();
    for answer in [Answer::Thawed, Answer::LimitsSet, Answer::Usage(Usage::default())] {
        ends(freeze, answer);
    }
    ends(freeze, Answer::Processes { rows: vec![], last: true });
    let twice = |talk: &mut Talk| {
        let request = talk.ask(Question::Freeze).unwrap();
        talk.answer(request, Answer::Frozen).unwrap();
        request
    };
    ends(twice, Answer::Frozen);
    let processes = |talk: &mut Talk| talk.ask(Question::Processes).unwrap();
    // Empty parts could go on for ever, and so could full ones.
    ends(processes, Answer::Processes { rows: vec![], last: false });
    ends(processes, Answer::Processes { rows: rows(MAX_PROCESS_ROWS + 1), last: true });
    let full = |talk: &mut Talk| {
        let request = talk.ask(Question::Processes).unwrap();
        talk.answer(request, Answer::Processes { rows: rows(MAX_PROCESS_ROWS), last: false }).unwrap();
        request
    };
    ends(full, Answer::Processes { rows: rows(1), last: false });
    let mut talk = Talk::new();
    let request = talk.ask(Question::Freeze).unwrap();
    let message = GuestMessage::Answer { container: ContainerId("other".to_owned()), request, answer: Answer::Frozen };
    assert!(talk.hear(message).is_err());
}

/// What is not answered in time is refused, and its late answer is nobody's.
#[test]
fn late_answers() {
    let mut talk = Talk::new();
    let freeze = talk.ask(Question::Freeze).unwrap();
    talk.pass(30);
    let processes = talk.ask(Question::Processes).unwrap();
    talk.answer(processes, Answer::Processes { rows: rows(1), last: false }).unwrap();
    assert!(talk.replies().is_empty());
    talk.pass(31);
    let replies = talk.replies();
    assert!(
        matches!(replies.as_slice(), [(request, Reply::Refused(why))] if *request == freeze && why.contains("in time"))
    );
    talk.pass(100);
    assert!(matches!(talk.replies().as_slice(), [(request, Reply::Refused(_))] if *request == processes));
    assert_eq!(talk.conversation.deadline(), None);
    talk.answer(freeze, Answer::Frozen).unwrap();
    talk.answer(processes, Answer::Processes { rows: rows(1), last: true }).unwrap();
    assert!(talk.replies().is_empty());
    assert!(talk.answer(freeze, Answer::Frozen).is_err());
}

/// A guest that never answers costs a bounded number of questions, and not its container.
#[test]
fn never_an_answer() {
    let mut talk = Talk::new();
    for _ in 0..MAX_QUESTIONS {
        talk.ask(Question::Usage).unwrap();
    }
    assert!(matches!(talk.ask(Question::Usage), Err(RequestError::TooManyQuestions)));
    talk.pass(1000);
    assert_eq!(talk.replies().len(), MAX_QUESTIONS);
    assert!(matches!(talk.ask(Question::Usage), Err(RequestError::TooManyQuestions)));
    talk.conversation.spawn(&id(), ProcessSpec::default(), NONE, talk.now, || unreachable!()).unwrap();
    // One answer makes room for one question.
    talk.answer(RequestId(1), Answer::Usage(Usage::default())).unwrap();
    assert!(talk.replies().is_empty());
    talk.ask(Question::Usage).unwrap();
    talk.conversation.power_off(talk.now).unwrap();
    assert!(matches!(talk.ask(Question::Usage), Err(RequestError::Ended)));
}

#[test]
fn questions_need_a_container() {
    let mut talk = Talk::new();
    let other = ContainerId("other".to_owned());
    let error = talk.conversation.ask(&other, Question::Usage, talk.now).unwrap_err();
    assert!(matches!(error, RequestError::UnknownContainer(_)));
    talk.conversation.create(other.clone(), ContainerConfig::default(), talk.now).unwrap();
    let error = talk.conversation.ask(&other, Question::Usage, talk.now).unwrap_err();
    assert!(matches!(error, RequestError::UnknownContainer(_)));
}

/// A container whose volumes are filled may take its time; another one may not.
#[test]
fn filling_volumes_takes_time() {
    let now = Instant::now();
    for (copy_up, patient) in [(false, false), (true, true)] {
        let mut talk = Talk::new();
        let volume = VolumeMount { disk: String::new(), path: String::new(), read_only: false, copy_up };
        let config = ContainerConfig { volumes: vec![volume], ..ContainerConfig::default() };
        let other = ContainerId("other".to_owned());
        talk.conversation.create(other.clone(), config, now).unwrap();
        let expired = talk.conversation.expire(now + Duration::from_secs(600), &mut talk.events);
        match expired {
            Ok(()) => assert!(patient),
            Err(GuestError::Deadline(Awaited::Created(container))) => assert!(!patient && container == other),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn processes_are_bounded_and_forgotten() {
    let mut talk = Talk::new();
    let spawn = |talk: &mut Talk| {
        let token = || unreachable!("no streams");
        talk.conversation.spawn(&id(), ProcessSpec::default(), NONE, talk.now, token).map(|(process, _)| process)
    };
    let end = |talk: &mut Talk, process| {
        let container = id();
        talk.hear(GuestMessage::Spawned { container: container.clone(), process, pid: 1, at: 1 }).unwrap();
        let status = ExitStatus::Code(0);
        talk.hear(GuestMessage::Exited { container, process, status, oom_killed: false }).unwrap();
    };
    let processes: Vec<ProcessId> = (0..MAX_PROCESSES).map(|_| spawn(&mut talk).unwrap()).collect();
    assert!(matches!(spawn(&mut talk), Err(RequestError::TooManyProcesses)));
    processes.into_iter().for_each(|process| end(&mut talk, process));
    let empty = format!("{:?}", Talk::new().conversation).len();
    for _ in 0..10_000 {
        let process = spawn(&mut talk).unwrap();
        end(&mut talk, process);
        let request = talk.ask(Question::Usage).unwrap();
        talk.answer(request, Answer::Usage(Usage::default())).unwrap();
        talk.events.clear();
    }
    // Nothing of them is left but how many there were.
    assert!(format!("{:?}", talk.conversation).len() < empty + 20, "{:?}", talk.conversation);
}
