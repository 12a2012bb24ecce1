//! The life of a machine as a state machine without processes: what was heard goes in, whom to kill comes out.
//!
//! ```text
//!             Started
//!  Starting ──────────▶ Running
//!      │                   │     any of: Ended, a process gone, control socket closed, garbage, Stop, Kill
//!      └─────────┬─────────┘
//!                ▼
//!             Ending ── grace over: kill what is left ──▶ (all processes reaped) ──▶ verdict
//! ```
//!
//! The first cause decides the verdict: what the others do afterwards is a consequence of it.
//!
//! Companions serve a device from outside. One that fails is a cause; one that ends in peace was left by the machine,
//! which is about to say why. They end with the machine's own processes.

use machine::{End, EndReason, FromMachine};

use crate::end::{LastWords, MachineEndReason, last_words, printable};
use crate::process::{Exit, Role};

/// How long processes may take to end when they are told to.
const STOP_GRACE_NS: u64 = 500_000_000;

/// How long processes may take to end when one of them has: an emulator gives its guest's memory back first.
const END_GRACE_NS: u64 = 3_000_000_000;

/// How a process ends that was killed.
const SIGKILLED: Exit = Exit::Signal(9);

/// What was heard.
#[derive(Debug)]
pub(crate) enum Input {
    /// A message from the machine process.
    Said(FromMachine),
    /// A datagram that is no message.
    Garbled,
    /// The machine process closed its control socket.
    HungUp,
    /// A process was reaped.
    Gone(Role, Exit),
    /// [`Machine::stop`](crate::Machine::stop).
    Stop,
    /// The handle was dropped.
    Kill,
    /// Time passed.
    Tick,
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send [`machine::ToMachine::Stop`].
    SendStop,
    /// Send SIGKILL.
    Kill(Role),
    /// Tell the host that the machine started.
    Started(u64),
    /// Tell the host the kernel log that it asked for.
    KernelLog(Vec<u8>),
}

/// Why a machine is ending, the first cause only.
#[derive(Debug)]
enum Cause {
    Said(End),
    Garbled(&'static str),
    HungUp,
    Gone(Role),
    Told,
}

/// A machine's life up to now.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    alive: Vec<Role>,
    killed: Vec<Role>,
    gone: Vec<(Role, Exit)>,
    started: bool,
    cause: Option<Cause>,
    said: Option<End>,
    grace_ends: Option<u64>,
    logs_asked: u64,
}

impl Lifecycle {
    /// A machine whose processes were just spawned.
    pub(crate) fn new(roles: &[Role]) -> Self {
        Self {
            alive: roles.to_vec(),
            killed: Vec::new(),
            gone: Vec::new(),
            started: false,
            cause: None,
            said: None,
            grace_ends: None,
            logs_asked: 0,
        }
    }

    /// All processes are reaped.
    pub(crate) fn finished(&self) -> bool {
        self.alive.is_empty()
    }

    /// When the next [`Input::Tick`] is due.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.grace_ends
    }

    /// The host asked for the kernel log: one answer is welcome.
    pub(crate) fn asked_for_log(&mut self) {
        self.logs_asked += 1;
    }

    /// One step.
    pub(crate) fn step(&mut self, input: Input, now: u64) -> Vec<Action> {
        match input {
            Input::Said(message) => self.heard(message, now),
            Input::Garbled => self.garbled("a datagram that is no message", now),
            Input::HungUp => {
                self.begin_to_end(Cause::HungUp, now);
                Vec::new()
            }
            Input::Gone(role, exit) => self.process_gone(role, exit, now),
            Input::Stop if self.cause.is_some() => {
                self.shorten_grace(now);
                Vec::new()
            }
            Input::Stop => {
                self.begin_to_end(Cause::Told, now);
                self.shorten_grace(now);
                let mut actions = vec![Action::SendStop];
                actions.extend(self.kill(|role| role == Role::Emulator));
                actions
            }
            Input::Kill => {
                self.begin_to_end(Cause::Told, now);
                self.kill(|_| true)
            }
            Input::Tick if self.grace_ends.is_some_and(|at| now >= at) => {
                self.grace_ends = None;
                self.kill(|_| true)
            }
            Input::Tick => Vec::new(),
        }
    }

    fn heard(&mut self, message: FromMachine, now: u64) -> Vec<Action> {
        match message {
            // What follows the last message, or comes from a process that is being killed, is not heard.
            _ if self.said.is_some() || matches!(self.cause, Some(Cause::Garbled(_))) => Vec::new(),
            FromMachine::Started { .. } if self.started => self.garbled("a second start", now),
            FromMachine::Started { at } => {
                self.started = true;
                vec![Action::Started(at)]
            }
            FromMachine::KernelLog(_) if self.logs_asked == 0 => {
                self.garbled("a kernel log that nobody asked for", now)
            }
            FromMachine::KernelLog(log) => {
                self.logs_asked -= 1;
                vec![Action::KernelLog(log)]
            }
            FromMachine::Ended(end) => {
                self.said = Some(end.clone());
                let peer_closed = end.reason == EndReason::PeerClosed;
                self.begin_to_end(Cause::Said(end), now);
                // An emulator that closed its connections is about to exit, and its status matters. One whose
                // devices failed would wait for them for ever.
                if peer_closed { Vec::new() } else { self.kill(|role| role == Role::Emulator) }
            }
        }
    }

    fn garbled(&mut self, what: &'static str, now: u64) -> Vec<Action> {
        self.begin_to_end(Cause::Garbled(what), now);
        self.kill(|_| true)
    }

    fn process_gone(&mut self, role: Role, exit: Exit, now: u64) -> Vec<Action> {
        self.alive.retain(|alive| *alive != role);
        self.gone.push((role, exit));
        if role.is_companion() {
            return self.companion_gone(role, exit, now);
        }
        self.begin_to_end(Cause::Gone(role), now);
        if self.alive.iter().all(|role| role.is_companion()) {
            return self.kill(|_| true);
        }
        // See `heard`: an emulator that ended first is let to exit, even if its devices are faster.
        let after_the_emulator = self.said.as_ref().is_some_and(|end| end.reason == EndReason::PeerClosed);
        if role == Role::Devices && !after_the_emulator {
            return self.kill(|role| role == Role::Emulator);
        }
        Vec::new()
    }

    fn companion_gone(&mut self, role: Role, exit: Exit, now: u64) -> Vec<Action> {
        if exit == Exit::Code(0) {
            self.grace_ends.get_or_insert(now.saturating_add(END_GRACE_NS));
            return Vec::new();
        }
        self.begin_to_end(Cause::Gone(role), now);
        let mut actions = vec![Action::SendStop];
        actions.extend(self.kill(|role| role == Role::Emulator));
        actions
    }

    fn begin_to_end(&mut self, cause: Cause, now: u64) {
        if self.cause.is_none() {
            self.cause = Some(cause);
            self.grace_ends = Some(now.saturating_add(END_GRACE_NS));
        }
    }

    fn shorten_grace(&mut self, now: u64) {
        self.grace_ends = self.grace_ends.map(|at| at.min(now.saturating_add(STOP_GRACE_NS)));
    }

    fn kill(&mut self, whom: impl Fn(Role) -> bool) -> Vec<Action> {
        let victims: Vec<Role> = self.alive.iter().copied().filter(|role| whom(*role)).collect();
        self.killed.extend(&victims);
        victims.into_iter().map(Action::Kill).collect()
    }

    /// The kernel log that came with the end.
    pub(crate) fn kernel_log(&self) -> Option<&[u8]> {
        self.said.as_ref().map(|end| end.kernel_log.as_slice())
    }

    /// The end's time as the machine process tells it.
    pub(crate) fn said_at(&self) -> Option<u64> {
        self.said.as_ref().map(|end| end.at)
    }

    /// Why it ended. `complaint` is the last line of a process's stderr.
    pub(crate) fn verdict(&self, complaint: impl Fn(Role) -> Option<String>) -> MachineEndReason {
        if let Some(Cause::Garbled(what)) = &self.cause {
            return MachineEndReason::Internal(format!("it sent {what}"));
        }
        if let Some(reason) = self.companion_verdict(&complaint).or_else(|| self.emulator_verdict(&complaint)) {
            return reason;
        }
        match (&self.cause, &self.said) {
            (_, Some(end)) => self.said_verdict(end),
            (Some(Cause::Told), None) => MachineEndReason::Stopped,
            (_, None) => self.silent_verdict(),
        }
    }

    /// A companion that failed says more than what the machine made of it: an emulator, say, may be seen to end first.
    fn companion_verdict(&self, complaint: &impl Fn(Role) -> Option<String>) -> Option<MachineEndReason> {
        let killed = |role: &Role| self.killed.contains(role);
        let (role, exit) = self.gone.iter().find(|(role, _)| role.is_companion() && !killed(role))?;
        let left = self.said.is_some() || self.gone.iter().any(|(role, _)| !role.is_companion() && !killed(role));
        match exit {
            _ if matches!(self.cause, Some(Cause::Told)) => None,
            Exit::Signal(signal) => Some(MachineEndReason::KilledBySignal(*signal)),
            Exit::Code(0) if left => None,
            Exit::Code(code) => {
                let text = complaint(*role).unwrap_or_else(|| format!("virtiofsd exited with status {code}"));
                Some(if self.started { MachineEndReason::Internal(text) } else { MachineEndReason::SetUp(text) })
            }
        }
    }

    /// An emulator's own exit says more than its devices' "peer closed".
    fn emulator_verdict(&self, complaint: &impl Fn(Role) -> Option<String>) -> Option<MachineEndReason> {
        let caused_by_it = match &self.cause {
            Some(Cause::Gone(Role::Emulator)) => true,
            Some(Cause::Said(end)) => end.reason == EndReason::PeerClosed,
            _ => false,
        };
        let (_, exit) = self.gone.iter().find(|(role, _)| *role == Role::Emulator)?;
        if !caused_by_it {
            return None;
        }
        if self.killed.contains(&Role::Emulator) && *exit == SIGKILLED {
            return Some(MachineEndReason::Internal("the emulator let go of its devices and went on".into()));
        }
        Some(match exit {
            Exit::Signal(signal) => MachineEndReason::KilledBySignal(*signal),
            Exit::Code(0) => match self.kernel_log().map(last_words) {
                Some(words) => emulated_reset(words),
                None => MachineEndReason::Internal("the device process did not report the end".into()),
            },
            // QEMU exits with a status of its own only when it cannot make the machine.
            Exit::Code(code) => {
                complaint(Role::Emulator).map_or(MachineEndReason::Exited(*code), MachineEndReason::SetUp)
            }
        })
    }

    fn said_verdict(&self, end: &End) -> MachineEndReason {
        let told = matches!(self.cause, Some(Cause::Told));
        match &end.reason {
            EndReason::Reset => match last_words(&end.kernel_log) {
                LastWords::Panic(message) => MachineEndReason::GuestPanic { message },
                _ => MachineEndReason::Reset,
            },
            EndReason::TripleFault => match last_words(&end.kernel_log) {
                LastWords::Panic(message) => MachineEndReason::GuestPanic { message },
                LastWords::None => MachineEndReason::BootFailed,
                _ => MachineEndReason::TripleFault,
            },
            EndReason::PeerClosed | EndReason::Stopped if told => MachineEndReason::Stopped,
            EndReason::PeerClosed => MachineEndReason::Internal("it lost a peer that it does not have".into()),
            EndReason::Stopped => MachineEndReason::Internal("it stopped without being told".into()),
            EndReason::Setup(text) => MachineEndReason::SetUp(printable(text)),
            EndReason::Internal(text) => MachineEndReason::Internal(printable(text)),
        }
    }

    /// No last message: all there is to tell is how the process went.
    fn silent_verdict(&self) -> MachineEndReason {
        let first = self.gone.iter().find(|(role, _)| *role != Role::Emulator && !role.is_companion());
        match first {
            Some((role, exit)) if self.killed.contains(role) && *exit == SIGKILLED => {
                MachineEndReason::Internal("it closed its control socket and went on".into())
            }
            Some((_, Exit::Signal(signal))) => MachineEndReason::KilledBySignal(*signal),
            Some((_, Exit::Code(code))) => MachineEndReason::Exited(*code),
            None => MachineEndReason::Internal("no process was left".into()),
        }
    }
}

/// The emulator has no reset register: a guest resets by a triple fault, and only its log tells why.
fn emulated_reset(words: LastWords) -> MachineEndReason {
    match words {
        LastWords::Panic(message) => MachineEndReason::GuestPanic { message },
        LastWords::Orderly => MachineEndReason::Reset,
        LastWords::Other => MachineEndReason::TripleFault,
        LastWords::None => MachineEndReason::BootFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::end::MachineEndReason as Reason;

    const KVM: &[Role] = &[Role::Machine];
    const EMULATED: &[Role] = &[Role::Devices, Role::Emulator];

    /// Runs inputs 1 ms apart, answering every kill with a death by SIGKILL, until nothing is alive.
    fn life(roles: &[Role], inputs: Vec<Input>) -> Reason {
        let mut life = Lifecycle::new(roles);
        let mut now = 0;
        let mut inputs: std::collections::VecDeque<_> = inputs.into();
        while !life.finished() {
            now += 1_000_000;
            let input = inputs.pop_front().unwrap_or_else(|| {
                now = life.deadline().expect("an ending machine has a deadline");
                Input::Tick
            });
            let mut victims = Vec::new();
            for action in life.step(input, now) {
                if let Action::Kill(role) = action {
                    victims.push(role);
                }
            }
            for role in victims {
                if life.alive.contains(&role) {
                    inputs.push_front(Input::Gone(role, Exit::Signal(9)));
                }
            }
        }
        life.verdict(|role| Some(format!("{role:?} complains")))
    }

    fn ended(reason: EndReason, log: &str) -> Input {
        Input::Said(FromMachine::Ended(End { reason, at: 5, kernel_log: log.as_bytes().to_vec() }))
    }

    fn started() -> Input {
        Input::Said(FromMachine::Started { at: 1 })
    }

    const fn gone(role: Role, code: i32) -> Input {
        Input::Gone(role, Exit::Code(code))
    }

    #[test]
    fn a_kvm_machine_ends_as_it_says() {
        let end = |reason, log| life(KVM, vec![started(), ended(reason, log), gone(Role::Machine, 0)]);
        assert_eq!(end(EndReason::Reset, "[ 1.0] reboot: Restarting system"), Reason::Reset);
        assert_eq!(end(EndReason::Reset, ""), Reason::Reset);
        let panic = "[ 1.0] Kernel panic - not syncing: out of luck";
        assert_eq!(end(EndReason::Reset, panic), Reason::GuestPanic { message: "out of luck".into() });
        assert_eq!(end(EndReason::TripleFault, panic), Reason::GuestPanic { message: "out of luck".into() });
        assert_eq!(end(EndReason::TripleFault, "[ 1.0] hello"), Reason::TripleFault);
        assert_eq!(end(EndReason::TripleFault, ""), Reason::BootFailed);
        assert_eq!(end(EndReason::Setup("kernel: no ELF".into()), ""), Reason::SetUp("kernel: no ELF".into()));
        assert_eq!(end(EndReason::Internal("KVM".into()), ""), Reason::Internal("KVM".into()));
        assert!(matches!(end(EndReason::PeerClosed, ""), Reason::Internal(_)));
        assert!(matches!(end(EndReason::Stopped, ""), Reason::Internal(_)));
    }

    #[test]
    fn a_process_that_dies_without_a_word_ends_as_it_died() {
        assert_eq!(life(KVM, vec![gone(Role::Machine, 3)]), Reason::Exited(3));
        assert_eq!(life(KVM, vec![Input::HungUp, gone(Role::Machine, 3)]), Reason::Exited(3));
        let killed = || Input::Gone(Role::Machine, Exit::Signal(11));
        assert_eq!(life(KVM, vec![started(), Input::HungUp, killed()]), Reason::KilledBySignal(11));
    }

    #[test]
    fn what_hangs_is_killed_when_its_grace_is_over() {
        assert!(matches!(life(KVM, vec![started(), Input::HungUp]), Reason::Internal(_)));
        assert_eq!(life(KVM, vec![started(), ended(EndReason::Reset, "")]), Reason::Reset);
        assert_eq!(life(KVM, vec![started(), Input::Stop]), Reason::Stopped);
        assert_eq!(life(EMULATED, vec![started(), Input::Stop]), Reason::Stopped);
        assert!(matches!(life(EMULATED, vec![started(), ended(EndReason::PeerClosed, "")]), Reason::Internal(_)));
    }

    #[test]
    fn a_machine_that_breaks_the_protocol_is_killed() {
        let broken = |input| life(KVM, vec![started(), input]);
        assert!(matches!(broken(Input::Garbled), Reason::Internal(_)));
        assert!(matches!(broken(started()), Reason::Internal(_)));
        assert!(matches!(broken(Input::Said(FromMachine::KernelLog(vec![]))), Reason::Internal(_)));
        // A lie told afterwards changes nothing.
        let lie = vec![Input::Garbled, ended(EndReason::Reset, "")];
        assert!(matches!(life(EMULATED, lie), Reason::Internal(_)));
    }

    #[test]
    fn stop_wins_unless_the_guest_was_first() {
        let stopped = vec![started(), Input::Stop, ended(EndReason::Stopped, ""), gone(Role::Machine, 0)];
        assert_eq!(life(KVM, stopped), Reason::Stopped);
        let crossed = vec![started(), Input::Stop, ended(EndReason::Reset, ""), gone(Role::Machine, 0)];
        assert_eq!(life(KVM, crossed), Reason::Reset);
        let late = vec![started(), ended(EndReason::Reset, ""), Input::Stop, gone(Role::Machine, 0)];
        assert_eq!(life(KVM, late), Reason::Reset);
        assert_eq!(life(EMULATED, vec![started(), Input::Stop, ended(EndReason::PeerClosed, "x")]), Reason::Stopped);
        assert_eq!(life(EMULATED, vec![Input::Kill]), Reason::Stopped);
    }

    #[test]
    fn a_companion_that_fails_ends_the_machine_and_is_named() {
        let beside = |roles: &[Role]| [&[Role::Files], roles].concat();
        let complaint = || "Files complains".to_owned();
        for roles in [beside(KVM), beside(EMULATED)] {
            assert_eq!(life(&roles, vec![gone(Role::Files, 1)]), Reason::SetUp(complaint()));
            assert_eq!(life(&roles, vec![started(), gone(Role::Files, 1)]), Reason::Internal(complaint()));
            let killed = Input::Gone(Role::Files, Exit::Signal(9));
            assert_eq!(life(&roles, vec![started(), killed]), Reason::KilledBySignal(9));
            // It went without a fault, and nobody follows.
            assert_eq!(life(&roles, vec![started(), gone(Role::Files, 0)]), Reason::Internal(complaint()));
            assert_eq!(life(&roles, vec![started(), Input::Stop]), Reason::Stopped);
        }
        // The emulator that lost it may be seen to end first.
        let late = vec![gone(Role::Emulator, 1), ended(EndReason::PeerClosed, ""), gone(Role::Files, 1)];
        assert_eq!(life(&beside(EMULATED), late), Reason::SetUp(complaint()));
    }

    #[test]
    fn a_companion_that_the_machine_left_changes_no_verdict() {
        let log = "[ 1.0] reboot: Restarting system";
        let reset = || ended(EndReason::Reset, log);
        let kvm = [Role::Files, Role::Machine];
        let before = vec![started(), gone(Role::Files, 0), reset(), gone(Role::Machine, 0)];
        assert_eq!(life(&kvm, before), Reason::Reset);
        assert_eq!(life(&kvm, vec![started(), reset(), gone(Role::Machine, 0)]), Reason::Reset);
        let killed = vec![started(), gone(Role::Files, 0), Input::Gone(Role::Machine, Exit::Signal(9))];
        assert_eq!(life(&kvm, killed), Reason::KilledBySignal(9));
        let emulated = [Role::Files, Role::Devices, Role::Emulator];
        let peer = || ended(EndReason::PeerClosed, log);
        let before = vec![started(), gone(Role::Files, 0), peer(), gone(Role::Emulator, 0), gone(Role::Devices, 0)];
        assert_eq!(life(&emulated, before), Reason::Reset);
        let after = vec![started(), peer(), gone(Role::Devices, 0), gone(Role::Emulator, 0)];
        assert_eq!(life(&emulated, after), Reason::Reset);
    }

    #[test]
    fn an_emulated_reset_is_read_from_the_log() {
        let end = |log| {
            let peer = || ended(EndReason::PeerClosed, log);
            let one = life(EMULATED, vec![started(), peer(), gone(Role::Emulator, 0), gone(Role::Devices, 0)]);
            let other = life(EMULATED, vec![started(), gone(Role::Emulator, 0), peer(), gone(Role::Devices, 0)]);
            let third = life(EMULATED, vec![started(), peer(), gone(Role::Devices, 0), gone(Role::Emulator, 0)]);
            assert_eq!(one, other);
            assert_eq!(one, third);
            one
        };
        assert_eq!(end("[ 1.0] reboot: Restarting system"), Reason::Reset);
        assert_eq!(end("[ 1.0] Linux version"), Reason::TripleFault);
        assert_eq!(end(""), Reason::BootFailed);
        let panic = Reason::GuestPanic { message: "x".into() };
        assert_eq!(end("[ 1.0] Kernel panic - not syncing: x"), panic);
    }

    #[test]
    fn an_emulator_that_dies_is_the_cause_whoever_is_heard_first() {
        let killed = || Input::Gone(Role::Emulator, Exit::Signal(9));
        let peer = || ended(EndReason::PeerClosed, "[ 1.0] hello");
        for inputs in [
            vec![started(), killed(), peer(), gone(Role::Devices, 0)],
            vec![started(), peer(), killed(), gone(Role::Devices, 0)],
            vec![started(), peer(), gone(Role::Devices, 0), killed()],
            vec![killed(), peer(), gone(Role::Devices, 0)],
        ] {
            assert_eq!(life(EMULATED, inputs), Reason::KilledBySignal(9));
        }
        let refused = vec![started(), gone(Role::Emulator, 1), peer(), gone(Role::Devices, 0)];
        assert_eq!(life(EMULATED, refused), Reason::SetUp("Emulator complains".into()));
    }

    #[test]
    fn devices_that_die_take_the_emulator_along() {
        assert_eq!(life(EMULATED, vec![started(), gone(Role::Devices, 101)]), Reason::Exited(101));
        let killed = Input::Gone(Role::Devices, Exit::Signal(6));
        assert_eq!(life(EMULATED, vec![started(), Input::HungUp, killed]), Reason::KilledBySignal(6));
        let setup = ended(EndReason::Setup("disk".into()), "");
        assert_eq!(life(EMULATED, vec![setup, gone(Role::Devices, 1)]), Reason::SetUp("disk".into()));
    }

    #[test]
    fn an_asked_log_is_handed_on() {
        let mut life = Lifecycle::new(KVM);
        life.asked_for_log();
        let actions = life.step(Input::Said(FromMachine::KernelLog(vec![1])), 0);
        assert_eq!(actions, [Action::KernelLog(vec![1])]);
    }
}
