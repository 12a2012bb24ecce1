//! The whole life of a container: many commands, many processes, many machines.

use std::thread;

use protocol::{Answer, Limits, ProcessRow as GuestRow, Question, Usage as GuestFigures};

use super::*;
use crate::keeper::{
    client::{Outcome, RunningExec},
    policy::{HealthSpec, RestartPolicy},
    wire::{Exec, Update},
};

impl Guest {
    /// Hears a question and answers it.
    fn answer(&mut self, expected: &Question, answer: Answer) {
        let Some(HostMessage::Ask { container, request, question }) = self.hear() else { panic!("no question") };
        assert_eq!(question, *expected);
        self.say(&GuestMessage::Answer { container, request, answer });
    }

    fn expect_signal(&mut self, expected: u8) {
        match self.hear() {
            Some(HostMessage::Signal { signal, .. }) => assert_eq!(signal, expected),
            other => panic!("no signal: {other:?}"),
        }
    }

    /// Says that a process ended whose streams are closed.
    fn say_exited(&mut self, process: ProcessId, code: u8) {
        let container = ContainerId(ID.into());
        let status = ExitStatus::Code(code);
        self.say(&GuestMessage::Exited { container, process, status, oom_killed: false });
    }
}

/// A command that runs, and its guest with the process running.
fn running(change: impl FnOnce(&mut Launch)) -> (Command, Guest, Process) {
    let mut command = Command::launch(&request(), 1, change);
    let (guest, process) = Guest::run(&command.machine);
    command.expect(&FromKeeper::Attached);
    command.expect(&FromKeeper::Started);
    (command, guest, process)
}

fn finish(command: Command, mut guest: Guest, process: Process) -> Ending {
    guest.exit(process, ExitStatus::Code(0));
    guest.power_off();
    command.end()
}

const OUT: AttachedStreams = AttachedStreams { stdin: false, stdout: true, stderr: false };

fn exec(streams: AttachedStreams) -> Exec {
    let process = protocol::ProcessSpec { argv: vec![b"id".to_vec()], ..protocol::ProcessSpec::default() };
    Exec { id: "e".repeat(64), process, tty: false, streams, size: TerminalSize::default(), detach: false }
}

/// Starts a further process: the command's side in a thread, for it waits until the guest has answered.
fn start_exec(command: &Command, guest: &mut Guest, streams: AttachedStreams) -> (RunningExec, Process) {
    let connection = command.other();
    let asking = thread::spawn(move || connection.exec(exec(streams)).unwrap());
    let process = guest.spawn_exec();
    (asking.join().unwrap(), process)
}

#[test]
fn whoever_attaches_late_gets_what_comes_from_now_on_and_the_log_has_it_all() {
    let (mut command, mut guest, mut process) = running(|_| {});
    process.stdout.write_all(b"early\n").unwrap();
    command.stdout.read_exact(&mut [0; 6]).unwrap();
    let mut attachment = command.other().attach(AttachedStreams { stdin: true, ..OUT }).unwrap();
    let mut pipes = attachment.take_pipes();
    // The answer came before the pipes were connected; a question comes behind both.
    process.stdout.write_all(b"late\n").unwrap();
    let mut late = [0; 5];
    pipes.stdout.as_mut().unwrap().read_exact(&mut late).unwrap();
    assert_eq!(&late, b"late\n");
    // Input from both; the end of the one that attached ends nothing.
    let mut input = [0; 9];
    pipes.stdin.take().unwrap().write_all(b"from late").unwrap();
    process.stdin.as_mut().unwrap().read_exact(&mut input).unwrap();
    command.stdin.take().unwrap().write_all(b"from both").unwrap();
    let mut rest = String::new();
    process.stdin.as_mut().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!((&input, rest.as_str()), (b"from late", "from both"));
    attachment.control().detach();
    assert_eq!(attachment.next().unwrap(), Outcome::Detached);
    process.stderr.as_mut().unwrap().write_all(b"no end").unwrap();
    let home = command.home.clone();
    let Command { keeper, _directory, .. } = {
        guest.exit(process, ExitStatus::Code(0));
        guest.power_off();
        command
    };
    keeper.join().unwrap();
    let mut log = logs::Reader::open(&home.container(ID).join("log"), &logs::Options::default()).unwrap();
    let records: Vec<_> = std::iter::from_fn(|| log.next().unwrap()).collect();
    let texts: Vec<_> = records.iter().map(|record| record.text.as_str()).collect();
    assert_eq!(texts, ["early\n", "late\n", "no end"]);
    assert_eq!(records[2].stream, logs::Stream::Stderr);
}

#[test]
fn launching_command_that_detaches_leaves_input_open() {
    let (mut command, guest, mut process) = running(|_| {});
    command.say(&ToKeeper::Detach);
    command.expect(&FromKeeper::Done);
    drop(command.stdin.take());
    let mut attachment = command.other().attach(AttachedStreams { stdin: true, ..OUT }).unwrap();
    attachment.take_pipes().stdin.unwrap().write_all(b"more").unwrap();
    let mut input = [0; 4];
    process.stdin.as_mut().unwrap().read_exact(&mut input).unwrap();
    assert_eq!(finish(command, guest, process).exit_code, 0);
    assert!(matches!(attachment.wait_for(|_| false).unwrap(), Outcome::Ended(ending) if ending.exit_code == 0));
}

#[test]
fn process_is_not_spawned_before_its_launcher_is_attached() {
    let directory = tempfile::tempdir().unwrap();
    let home = Home { data: directory.path().join("data"), run: directory.path().join("run") };
    drop(records(&home));
    let machine = FakeMachine::new();
    let (connection, theirs) = UnixStream::pair().unwrap();
    let clients = Clients::with_first(Receiver::new(theirs)).unwrap();
    let (launch, hull) = (launch(home, &request()), machine.clone());
    let keeper = thread::spawn(move || Keeper::new(&launch, || Ok(hull.clone()), Timeouts::default(), clients).run().0);
    let mut guest = Guest::boot(&machine);
    guest.create();
    guest.control.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(guest.hear().is_none(), "spawned too early");
    guest.control.set_read_timeout(None).unwrap();
    // A launcher that dies leaves a container that runs.
    drop(connection);
    let process = guest.spawn();
    guest.exit(process, ExitStatus::Code(4));
    guest.power_off();
    assert_eq!(keeper.join().unwrap().exit_code, 4);
}

#[test]
fn further_process() {
    let (command, mut guest, process) = running(|_| {});
    let (mut exec, mut further) = start_exec(&command, &mut guest, AttachedStreams { stdin: true, ..OUT });
    let mut pipes = exec.take_pipes();
    exec.control().signal(10);
    guest.expect_signal(10);
    further.stdout.write_all(b"uid=0").unwrap();
    drop(pipes.stdin.take());
    assert_eq!(further.stdin.as_mut().unwrap().read(&mut [0; 1]).unwrap(), 0);
    let id = further.id;
    drop(further);
    guest.say_exited(id, 3);
    let mut text = String::new();
    pipes.stdout.unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), exec.wait().unwrap()), ("uid=0", Some(3)));
    assert_eq!(finish(command, guest, process).exit_code, 0);
}

#[test]
fn further_process_that_cannot_be_started() {
    let (command, mut guest, process) = running(|_| {});
    let connection = command.other();
    let asking = thread::spawn(move || connection.exec(exec(OUT)).unwrap_err());
    let Some(HostMessage::Spawn { container, process: further, .. }) = guest.hear() else { panic!("no spawn") };
    let error = protocol::SpawnError::NotFound("id: not found".into());
    guest.say(&GuestMessage::SpawnFailed { container, process: further, error });
    let error = asking.join().unwrap();
    assert!(
        matches!(error, Error::ExecFailed { code: 127, ref error } if error.contains("id: not found")),
        "{error:?}"
    );
    finish(command, guest, process);
}

#[test]
fn many_further_processes_at_once_and_in_a_row() {
    let (command, mut guest, process) = running(|_| {});
    let mut execs: Vec<_> = (0..40).map(|_| start_exec(&command, &mut guest, OUT)).collect();
    while let Some((exec, further)) = execs.pop() {
        let id = further.id;
        drop(further);
        guest.say_exited(id, 1);
        assert_eq!(exec.wait().unwrap(), Some(1));
    }
    for _ in 0..200 {
        let (exec, further) = start_exec(&command, &mut guest, OUT);
        let id = further.id;
        drop(further);
        guest.say_exited(id, 0);
        assert_eq!(exec.wait().unwrap(), Some(0));
    }
    finish(command, guest, process);
}

#[test]
fn further_processes_end_with_the_container() {
    let (command, mut guest, process) = running(|launch| launch.auto_remove = true);
    let (exec, further) = start_exec(&command, &mut guest, OUT);
    guest.exit(process, ExitStatus::Code(0));
    assert_eq!(command.end().exit_code, 0);
    assert_eq!(exec.wait().unwrap(), Some(137));
    drop(further);
}

#[test]
fn stop_is_a_signal_a_wait_and_sigkill() {
    let (command, mut guest, process) = running(|_| {});
    let connection = command.other();
    let stopping = thread::spawn(move || connection.stop(Some(10), Some(Duration::from_millis(100))).unwrap());
    guest.expect_signal(10);
    guest.expect_signal(9);
    guest.exit(process, ExitStatus::Signal(9));
    guest.power_off();
    let ending = stopping.join().unwrap().unwrap();
    assert_eq!((ending.reason, ending.exit_code), (Reason::Signalled, 137));
    assert!(command.record().stopped_by_user);
    command.end();
}

#[test]
fn stop_ends_a_start() {
    let command = Command::run(&request());
    let guest = Guest::boot(&command.machine);
    let ending = command.other().stop(None, None).unwrap().unwrap();
    assert_eq!((ending.reason, ending.exit_code), (Reason::Interrupted, 143));
    drop(guest);
    command.end();
}

#[test]
fn stop_does_not_wait_for_a_reader_that_is_stuck() {
    let (command, mut guest, mut process) = running(|_| {});
    process.stdout.write_all(&vec![b'x'; 200_000]).unwrap();
    let connection = command.other();
    let stopping = thread::spawn(move || connection.stop(None, None).unwrap());
    guest.expect_signal(15);
    guest.exit(process, ExitStatus::Code(0));
    guest.power_off();
    assert_eq!(stopping.join().unwrap().unwrap().exit_code, 0);
    command.end();
}

fn always(launch: &mut Launch) {
    launch.restart = RestartPolicy::Always;
}

#[test]
fn container_that_fails_runs_again_with_the_same_command_attached() {
    let policy = |launch: &mut Launch| launch.restart = RestartPolicy::OnFailure { max: 1 };
    let mut command = Command::launch(&request(), 3, policy);
    let machines = command.machines.clone();
    for (index, machine) in machines[..2].iter().enumerate() {
        let (mut guest, mut process) = Guest::run(machine);
        let record = command.await_record(|record| record.state == ContainerState::Running);
        assert_eq!(usize::try_from(record.restart_count).unwrap(), index);
        process.stdout.write_all(format!("{index}\n").as_bytes()).unwrap();
        guest.exit(process, ExitStatus::Code(7));
        guest.power_off();
        if index == 0 {
            let record = command.await_record(|record| record.state == ContainerState::Restarting);
            assert_eq!((record.exit_code, record.restart_count), (Some(7), 1));
        }
    }
    assert_eq!(command.output().0, "0\n1\n");
    let record = command.await_record(|record| record.state == ContainerState::Exited);
    assert!(!record.stopped_by_user && record.restart_count == 1);
    command.expect(&FromKeeper::Attached);
    command.expect(&FromKeeper::Started);
    assert!(matches!(command.receiver.receive().unwrap(), Some(FromKeeper::Restarting(_))));
    command.expect(&FromKeeper::Started);
    assert_eq!(command.end().exit_code, 7);
}

#[test]
fn stop_between_two_runs() {
    let command = Command::launch(&request(), 8, always);
    for machine in &command.machines[..4] {
        let (mut guest, process) = Guest::run(machine);
        guest.exit(process, ExitStatus::Code(1));
        guest.power_off();
    }
    // The fourth pause has 800 ms.
    command.await_record(|record| record.restart_count == 4 && record.state == ContainerState::Restarting);
    let ending = command.other().stop(None, None).unwrap().unwrap();
    assert_eq!(ending.exit_code, 1);
    assert!(command.record().stopped_by_user);
    command.end();
}

#[test]
fn signal_of_a_user_ends_it_for_good() {
    let mut command = Command::launch(&request(), 2, always);
    let (mut guest, process) = Guest::run(&command.machine);
    command.expect(&FromKeeper::Attached);
    command.expect(&FromKeeper::Started);
    command.say(&ToKeeper::Signal(15));
    guest.expect_signal(15);
    guest.exit(process, ExitStatus::Signal(15));
    guest.power_off();
    assert_eq!(command.end().exit_code, 143);
}

#[test]
fn command_that_is_not_there_is_not_tried_again() {
    let command = Command::launch(&request(), 2, always);
    let mut guest = Guest::boot(&command.machine);
    guest.create();
    let Some(HostMessage::Spawn { container, process, .. }) = guest.hear() else { panic!("no spawn") };
    let error = protocol::SpawnError::NotFound("sh: not found".into());
    guest.say(&GuestMessage::SpawnFailed { container, process, error });
    assert_eq!(command.end().exit_code, 127);
}

#[test]
fn restart_on_a_users_wish_syncs_the_disk_and_needs_no_policy() {
    let command = Command::launch(&RunRequest { auto_remove: true, ..request() }, 2, |_| {});
    let (mut guest, process) = Guest::run(&command.machine);
    command.await_record(|record| record.state == ContainerState::Running);
    let connection = command.other();
    let restarting = thread::spawn(move || connection.restart(None, None).unwrap());
    guest.expect_signal(15);
    guest.exit(process, ExitStatus::Code(0));
    guest.power_off();
    let (mut guest, process) = Guest::run(&command.machines[1]);
    restarting.join().unwrap();
    assert_eq!(command.record().state, ContainerState::Running);
    guest.exit(process, ExitStatus::Code(5));
    assert_eq!(command.end().exit_code, 5);
}

#[test]
fn restart_that_fails_says_why() {
    let command = Command::launch(&request(), 1, |_| {});
    let (mut guest, process) = Guest::run(&command.machine);
    command.await_record(|record| record.state == ContainerState::Running);
    let connection = command.other();
    let restarting = thread::spawn(move || connection.restart(None, None).unwrap_err());
    guest.expect_signal(15);
    guest.exit(process, ExitStatus::Code(0));
    guest.power_off();
    let error = restarting.join().unwrap();
    assert!(matches!(error, Error::Refused { ref reason, .. } if reason.contains("no machine is left")), "{error:?}");
    command.end();
}

#[test]
fn paused_container_stands_still_and_answers_no_questions() {
    let (command, mut guest, process) = running(|_| {});
    command.other().pause().unwrap();
    assert!(command.machine.0.paused.load(Ordering::SeqCst));
    assert_eq!(command.record().state, ContainerState::Paused);
    let refused = |error: Error| matches!(error, Error::Refused { ref reason, .. } if reason.contains("paused"));
    assert!(refused(command.other().pause().unwrap_err()));
    assert!(refused(command.other().exec(exec(OUT)).unwrap_err()));
    assert!(refused(command.other().freeze().unwrap_err()));
    assert!(command.other().usage().unwrap().guest.is_none());
    command.other().unpause().unwrap();
    assert_eq!(command.record().state, ContainerState::Running);
    assert!(refused(command.other().unpause().unwrap_err()));
    // A stop wakes it.
    command.other().pause().unwrap();
    let connection = command.other();
    let stopping = thread::spawn(move || connection.stop(None, None).unwrap());
    guest.expect_signal(15);
    assert!(!command.machine.0.paused.load(Ordering::SeqCst));
    guest.exit(process, ExitStatus::Code(0));
    guest.power_off();
    stopping.join().unwrap();
    command.end();
}

#[test]
fn machine_that_dies_while_it_is_paused() {
    let (command, guest, process) = running(|_| {});
    command.other().pause().unwrap();
    command.machine.end(MachineEndReason::KilledBySignal(9));
    drop((guest, process));
    assert_eq!(command.end().reason, Reason::MachineKilled);
}

#[test]
fn questions_are_passed_on() {
    let (command, mut guest, process) = running(|_| {});
    let mut connection = command.other();
    let asking = thread::spawn(move || connection.usage().unwrap());
    let figures = GuestFigures { memory: 5 << 20, cpu: 7, ..GuestFigures::default() };
    guest.answer(&Question::Usage, Answer::Usage(figures));
    let usage = asking.join().unwrap();
    assert_eq!(usage.guest.map(|guest| (guest.memory, guest.cpu_ns)), Some((5 << 20, 7000)));
    assert!(usage.keeper.rss > 0);

    let connection = command.other();
    let asking = thread::spawn(move || connection.processes().unwrap());
    let row = GuestRow { pid: 1, state: b'S', argv: b"sh\0".to_vec(), ..GuestRow::default() };
    guest.answer(&Question::Processes, Answer::Processes { rows: vec![row], last: true });
    let rows = asking.join().unwrap();
    assert_eq!((rows.len(), rows[0].pid, rows[0].state), (1, 1, 'S'));

    let limits = Limits { pids: Some(9), ..Limits::default() };
    let (connection, asked) = (command.other(), limits.clone());
    let asking = thread::spawn(move || connection.update(Update { limits: Some(asked), restart: None }).unwrap_err());
    guest.answer(&Question::SetLimits(limits), Answer::Refused("no such controller".into()));
    assert!(matches!(asking.join().unwrap(), Error::Refused { reason, .. } if reason == "no such controller"));
    finish(command, guest, process);
}

#[test]
fn guest_that_answers_another_question_is_not_believed() {
    let (command, mut guest, process) = running(|_| {});
    let mut connection = command.other();
    let asking = thread::spawn(move || connection.usage());
    guest.answer(&Question::Usage, Answer::LimitsSet);
    drop(process);
    let ending = command.end();
    assert_eq!(ending.reason, Reason::GuestError);
    drop(asking.join().unwrap());
}

#[test]
fn frozen_disk_thaws_with_the_command_that_froze_it() {
    let (command, mut guest, process) = running(|_| {});
    let freeze = |guest: &mut Guest| {
        let connection = command.other();
        let asking = thread::spawn(move || connection.freeze().unwrap());
        guest.answer(&Question::Freeze, Answer::Frozen);
        asking.join().unwrap()
    };
    let frozen = freeze(&mut guest);
    assert!(matches!(command.other().freeze().unwrap_err(), Error::Refused { .. }));
    drop(frozen);
    guest.answer(&Question::Thaw, Answer::Thawed);
    let frozen = freeze(&mut guest);
    let thawing = thread::spawn(move || frozen.thaw().unwrap());
    guest.answer(&Question::Thaw, Answer::Thawed);
    thawing.join().unwrap();
    finish(command, guest, process);
}

#[test]
fn health_is_checked_and_recorded() {
    let spec = HealthSpec {
        command: vec!["check".into()],
        interval: Duration::from_millis(30),
        timeout: Duration::from_millis(1000),
        retries: 1,
        ..HealthSpec::default()
    };
    let (command, mut guest, process) = running(|launch| launch.health = Some(spec));
    let status = |record: &ContainerRecord| record.health.as_ref().unwrap()["Status"].as_str().unwrap().to_owned();
    assert_eq!(status(&command.record()), "starting");
    let mut check = guest.spawn_exec();
    check.stdout.write_all(&[b'o'; 10_000]).unwrap();
    let id = check.id;
    drop(check);
    guest.say_exited(id, 0);
    // The next one hangs.
    let check = guest.spawn_exec();
    let record = command.await_record(|record| status(record) == "healthy");
    assert_eq!(record.health.unwrap()["Log"][0]["Output"].as_str().unwrap().len(), 4096);
    guest.expect_signal(9);
    let record = command.await_record(|record| status(record) == "unhealthy");
    assert_eq!(record.health.unwrap()["Log"][1]["ExitCode"], -1);
    let id = check.id;
    drop(check);
    guest.say_exited(id, 137);
    drop(process);
    command.say(&ToKeeper::Kill);
    command.end();
}

#[test]
fn keeper_that_cannot_write_the_log_goes_on() {
    let (mut command, mut guest, mut process) = running(|launch| {
        let directory = launch.home.container(ID);
        home::make_private(&directory).unwrap();
        std::fs::write(directory.join("log"), "").unwrap();
    });
    process.stdout.write_all(b"out\n").unwrap();
    guest.exit(process, ExitStatus::Code(0));
    guest.power_off();
    assert_eq!(command.output().0, "out\n");
    assert_eq!(command.end().exit_code, 0);
}
