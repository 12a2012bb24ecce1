use std::sync::Mutex;

use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};

use super::*;
use crate::device::{ActivateError, DeviceKind};
use crate::testing::{MEMORY, Ring, memory};

/// What happened to a device.
#[derive(Debug, Default)]
struct Log {
    activations: Vec<(u64, Vec<(u16, u64)>)>,
    quiesced: usize,
    reset: usize,
    config: Vec<(u64, Vec<u8>)>,
    interrupt: Option<Arc<dyn crate::device::Interrupt>>,
}

#[derive(Debug)]
struct Fake {
    log: Arc<Mutex<Log>>,
    refuse: bool,
}

const FEATURES: u64 = feature::RING | 1 << 5;

impl VirtioDevice for Fake {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn queue_sizes(&self) -> &[u16] {
        &[128, 64]
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::device::read_config_bytes(&[1, 2, 3, 4, 5, 6, 7, 8], offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.log.lock().unwrap().config.push((offset, data.to_vec()));
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut log = self.log.lock().unwrap();
        let queues = activation.queues.iter().map(|active| (active.queue.size(), active.queue.desc_table()));
        log.activations.push((activation.features, queues.collect()));
        log.interrupt = Some(activation.interrupt);
        if self.refuse { Err(ActivateError::Queue(0)) } else { Ok(()) }
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        self.log.lock().unwrap().quiesced += 1;
        Vec::new()
    }

    fn reset(&mut self) {
        self.log.lock().unwrap().reset += 1;
    }
}

struct Rig {
    registers: MmioTransport,
    log: Arc<Mutex<Log>>,
    rings: [Ring; 2],
}

use register as r;

const S_DRIVER: u32 = status::ACKNOWLEDGE | status::DRIVER;
const S_FEATURES: u32 = S_DRIVER | status::FEATURES_OK;
const S_RUNNING: u32 = S_FEATURES | status::DRIVER_OK;

impl Rig {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(refuse: bool) -> Self {
        let memory = memory();
        let log = Arc::new(Mutex::new(Log::default()));
        let device = Box::new(Fake { log: Arc::clone(&log), refuse });
        let rings = [Ring::new(&memory, 0, 128), Ring::new(&memory, 1, 64)];
        Self { registers: MmioTransport::new(memory, device).unwrap(), log, rings }
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.registers.write(offset, &value.to_le_bytes());
    }

    fn read(&mut self, offset: u64) -> u32 {
        let mut word = [0xee; 4];
        self.registers.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    /// Acknowledges, accepts `features`, and says so.
    fn negotiate(&mut self, features: u64) {
        self.write(r::STATUS, status::ACKNOWLEDGE);
        self.write(r::STATUS, S_DRIVER);
        for (page, bits) in [(0, page_of(features, 0)), (1, page_of(features, 1))] {
            self.write(r::DRIVER_FEATURES_SEL, page);
            self.write(r::DRIVER_FEATURES, bits);
        }
        self.write(r::STATUS, S_FEATURES);
    }

    fn set_queue(&mut self, index: usize) {
        let ring = &self.rings[index];
        let (size, addresses) = (ring.size, [ring.table(), ring.available_ring(), ring.used_ring()]);
        self.write(r::QUEUE_SEL, u32::try_from(index).unwrap());
        self.write(r::QUEUE_NUM, u32::from(size));
        for (register, address) in
            [r::QUEUE_DESC_LOW, r::QUEUE_DRIVER_LOW, r::QUEUE_DEVICE_LOW].into_iter().zip(addresses)
        {
            self.write(register, page_of(address, 0));
            self.write(register + 4, page_of(address, 1));
        }
        self.write(r::QUEUE_READY, 1);
    }

    fn running() -> Self {
        let mut rig = Self::new();
        rig.negotiate(FEATURES);
        rig.set_queue(0);
        rig.set_queue(1);
        rig.write(r::STATUS, S_RUNNING);
        assert_eq!(rig.read(r::STATUS), S_RUNNING);
        rig
    }

    fn activations(&self) -> usize {
        self.log.lock().unwrap().activations.len()
    }
}

#[test]
fn a_driver_that_keeps_to_the_rules_gets_a_running_device() {
    let rig = Rig::running();
    let log = rig.log.lock().unwrap();
    let queues = vec![(128, rig.rings[0].table()), (64, rig.rings[1].table())];
    assert_eq!(log.activations, [(FEATURES, queues)]);
}

#[test]
fn identity_registers() {
    let mut rig = Rig::new();
    for (what, offset, expected) in [
        ("magic", r::MAGIC_VALUE, 0x7472_6976),
        ("version", r::VERSION, 2),
        ("device", r::DEVICE_ID, 2),
        ("vendor", r::VENDOR_ID, VENDOR),
        ("features, low page", r::DEVICE_FEATURES, page_of(FEATURES, 0)),
        ("largest queue", r::QUEUE_NUM_MAX, 128),
        ("status", r::STATUS, 0),
        ("shared memory length", r::SHM_LEN_LOW, u32::MAX),
        ("shared memory base", r::SHM_BASE_HIGH, u32::MAX),
        ("write-only: driver features", r::DRIVER_FEATURES, 0),
        ("write-only: queue size", r::QUEUE_NUM, 0),
        ("write-only: notify", QUEUE_NOTIFY, 0),
        ("write-only: acknowledge", r::INTERRUPT_ACK, 0),
        ("write-only: descriptors", r::QUEUE_DESC_LOW, 0),
        ("nothing there", 0x18, 0),
        ("nothing there, odd", 0x01, 0),
        ("between shared memory registers", r::SHM_LEN_LOW + 1, 0),
    ] {
        assert_eq!(rig.read(offset), expected, "{what}");
    }
    rig.write(r::DEVICE_FEATURES_SEL, 1);
    assert_eq!(rig.read(r::DEVICE_FEATURES), 1);
    rig.write(r::DEVICE_FEATURES_SEL, 2);
    assert_eq!(rig.read(r::DEVICE_FEATURES), 0);
    for selected in [2, u32::MAX] {
        rig.write(r::QUEUE_SEL, selected);
        assert_eq!((rig.read(r::QUEUE_NUM_MAX), rig.read(r::QUEUE_READY)), (0, 0), "no queue {selected}");
    }
}

#[test]
fn accesses_of_other_widths_are_nothing() {
    let mut rig = Rig::new();
    for width in [1, 2, 8] {
        let mut bytes = vec![0xee; width];
        rig.registers.read(r::MAGIC_VALUE, &mut bytes);
        assert_eq!(bytes, vec![0; width]);
        rig.registers.write(r::STATUS, &vec![1; width]);
        assert_eq!(rig.read(r::STATUS), 0, "{width}");
    }
    let mut nothing = [];
    rig.registers.read(0, &mut nothing);
    rig.registers.write(0, &nothing);
}

#[test]
fn the_configuration_space_takes_any_width() {
    let mut rig = Rig::new();
    for (offset, width, expected) in [
        (0, 1, vec![1]),
        (1, 2, vec![2, 3]),
        (0, 8, vec![1, 2, 3, 4, 5, 6, 7, 8]),
        (6, 4, vec![7, 8, 0, 0]),
        (0xe00, 2, vec![0, 0]),
    ] {
        let mut bytes = vec![0xee; width];
        rig.registers.read(CONFIG + offset, &mut bytes);
        assert_eq!(bytes, expected);
    }
    let mut far = [0xee; 4];
    rig.registers.read(u64::MAX, &mut far);
    assert_eq!(far, [0; 4]);
    rig.registers.write(CONFIG, &[1]);
    assert!(rig.log.lock().unwrap().config.is_empty(), "before there is a driver");
    rig.negotiate(FEATURES);
    rig.registers.write(CONFIG + 3, &[1]);
    assert_eq!(rig.log.lock().unwrap().config, [(3, vec![1])]);
}

#[test]
fn features_are_agreed_on_or_not() {
    for (what, features, agreed) in [
        ("all", FEATURES, true),
        ("only the newer virtio", feature::VERSION_1, true),
        ("legacy", 0, false),
        ("all but the newer virtio", FEATURES & !feature::VERSION_1, false),
        ("one not offered", FEATURES | 1, false),
        ("one not offered, high page", FEATURES | 1 << 33, false),
        ("everything", u64::MAX, false),
    ] {
        let mut rig = Rig::new();
        rig.negotiate(features);
        assert_eq!(rig.read(r::STATUS) & status::FEATURES_OK != 0, agreed, "{what}");
    }
    let mut rig = Rig::new();
    rig.write(r::STATUS, S_DRIVER);
    rig.write(r::DRIVER_FEATURES_SEL, 2);
    rig.write(r::DRIVER_FEATURES, 1);
    rig.negotiate(FEATURES);
    assert_eq!(rig.read(r::STATUS), S_FEATURES, "a later page was accepted, then all were set anew");
}

#[test]
fn features_are_frozen_once_agreed_on() {
    let mut rig = Rig::new();
    rig.negotiate(feature::VERSION_1);
    rig.write(r::DRIVER_FEATURES_SEL, 0);
    rig.write(r::DRIVER_FEATURES, u32::MAX);
    rig.set_queue(0);
    rig.write(r::STATUS, S_RUNNING);
    assert_eq!(rig.log.lock().unwrap().activations[0].0, feature::VERSION_1);
    rig.write(r::DRIVER_FEATURES, u32::MAX);
    assert_eq!(rig.read(r::STATUS), S_RUNNING);
}

#[test]
fn status_goes_one_way() {
    let mut rig = Rig::new();
    for (what, written, expected) in [
        ("running out of nothing", S_RUNNING & !status::DRIVER, status::ACKNOWLEDGE),
        ("unknown bits", status::ACKNOWLEDGE | 0xffff_ff00 | 0x30, status::ACKNOWLEDGE),
        ("the device's own bit", status::ACKNOWLEDGE | status::NEEDS_RESET, status::ACKNOWLEDGE),
        ("driver", S_DRIVER, S_DRIVER),
        ("features without agreement", S_FEATURES, S_DRIVER),
        ("running without agreement", S_RUNNING, S_DRIVER),
        ("a bit less", status::ACKNOWLEDGE, S_DRIVER),
        ("failed", S_DRIVER | status::FAILED, S_DRIVER | status::FAILED),
        ("after failure", S_FEATURES | status::FAILED, S_DRIVER | status::FAILED),
    ] {
        rig.write(r::STATUS, written);
        assert_eq!(rig.read(r::STATUS), expected, "{what}");
    }
    assert_eq!(rig.activations(), 0);
    rig.write(r::STATUS, 0);
    assert_eq!(rig.read(r::STATUS), 0);
}

#[test]
fn running_twice_is_running_once() {
    let mut rig = Rig::running();
    rig.write(r::STATUS, S_RUNNING);
    rig.write(r::STATUS, S_RUNNING | status::DRIVER_OK);
    assert_eq!(rig.activations(), 1);
}

#[test]
fn queues_become_ready_only_if_they_can_be_used() {
    type Spoil = fn(&mut Rig);
    let cases: [(&str, Spoil); 17] = [
        ("size 0", |rig| rig.write(r::QUEUE_NUM, 0)),
        ("size not a power of two", |rig| rig.write(r::QUEUE_NUM, 100)),
        ("size above the largest", |rig| rig.write(r::QUEUE_NUM, 256)),
        ("size that is right modulo 65536", |rig| rig.write(r::QUEUE_NUM, 65536 + 128)),
        ("size at the end of numbers", |rig| rig.write(r::QUEUE_NUM, u32::MAX)),
        ("table misaligned", |rig| rig.write(r::QUEUE_DESC_LOW, 0x10008)),
        ("available ring misaligned", |rig| rig.write(r::QUEUE_DRIVER_LOW, 0x18001)),
        ("used ring misaligned", |rig| rig.write(r::QUEUE_DEVICE_LOW, 0x1c002)),
        ("table nowhere", |rig| rig.write(r::QUEUE_DESC_LOW, 0)),
        ("available ring nowhere", |rig| rig.write(r::QUEUE_DRIVER_LOW, 0)),
        ("used ring nowhere", |rig| rig.write(r::QUEUE_DEVICE_LOW, 0)),
        ("table beyond memory", |rig| rig.write(r::QUEUE_DESC_HIGH, 1)),
        ("available ring beyond memory", |rig| rig.write(r::QUEUE_DRIVER_HIGH, 1)),
        ("used ring beyond memory", |rig| rig.write(r::QUEUE_DEVICE_HIGH, 1)),
        ("table at the end of addresses", |rig| {
            rig.write(r::QUEUE_DESC_LOW, 0xffff_fff0);
            rig.write(r::QUEUE_DESC_HIGH, u32::MAX);
        }),
        ("table across the end of memory", |rig| {
            rig.write(r::QUEUE_DESC_LOW, u32::try_from(MEMORY).unwrap() - 0x10);
        }),
        ("used ring across the end of memory", |rig| {
            rig.write(r::QUEUE_DEVICE_LOW, u32::try_from(MEMORY).unwrap() - 0x10);
        }),
    ];
    for (what, spoil) in cases {
        let mut rig = Rig::new();
        rig.negotiate(FEATURES);
        rig.set_queue(0);
        assert_eq!(rig.read(r::QUEUE_READY), 1);
        rig.write(r::QUEUE_READY, 0);
        spoil(&mut rig);
        rig.write(r::QUEUE_READY, 1);
        assert_eq!(rig.read(r::QUEUE_READY), 0, "{what}");
        rig.write(r::STATUS, S_RUNNING);
        let log = rig.log.lock().unwrap();
        assert_eq!(log.activations[0].1, [], "{what}");
    }
}

#[test]
fn queue_registers_are_frozen() {
    let state = |rig: &mut Rig| {
        let queue = &rig.registers.queues[0];
        (queue.size, queue.descriptors, queue.driver, queue.device, rig.read(r::QUEUE_READY))
    };
    let registers = [
        r::QUEUE_NUM,
        r::QUEUE_DESC_LOW,
        r::QUEUE_DESC_HIGH,
        r::QUEUE_DRIVER_LOW,
        r::QUEUE_DRIVER_HIGH,
        r::QUEUE_DEVICE_LOW,
        r::QUEUE_DEVICE_HIGH,
    ];
    let mut ready = Rig::new();
    ready.negotiate(FEATURES);
    ready.set_queue(1);
    ready.set_queue(0);
    let mut failed = Rig::running();
    failed.write(r::STATUS, S_RUNNING | status::FAILED);
    for (what, mut rig) in
        [("before negotiation", Rig::new()), ("once ready", ready), ("running", Rig::running()), ("failed", failed)]
    {
        rig.write(r::QUEUE_SEL, 0);
        let before = state(&mut rig);
        for register in registers {
            for value in [0, 1, 64, 0x3000, u32::MAX] {
                rig.write(register, value);
                assert_eq!(state(&mut rig), before, "{what}: {register:#x}");
            }
        }
        if what != "once ready" {
            for value in [1, 0, 2, u32::MAX] {
                rig.write(r::QUEUE_READY, value);
                assert_eq!(state(&mut rig), before, "{what}: ready");
            }
        }
    }
}

#[test]
fn ready_is_a_boolean() {
    let mut rig = Rig::new();
    rig.negotiate(FEATURES);
    rig.write(r::QUEUE_READY, 1);
    assert_eq!(rig.read(r::QUEUE_READY), 0, "without addresses");
    rig.set_queue(0);
    rig.write(r::QUEUE_READY, 1);
    assert_eq!(rig.read(r::QUEUE_READY), 1, "twice");
    rig.write(r::QUEUE_READY, 2);
    assert_eq!(rig.read(r::QUEUE_READY), 0);
}

#[test]
fn reset_drops_everything_and_the_next_driver_starts_afresh() {
    let mut rig = Rig::running();
    rig.registers.kicks()[0].write(1).unwrap();
    rig.log.lock().unwrap().interrupt.clone().unwrap().queue(0);
    rig.write(r::STATUS, 0);
    {
        let log = rig.log.lock().unwrap();
        assert_eq!((log.quiesced, log.reset), (1, 1));
    }
    assert_eq!((rig.read(r::STATUS), rig.read(r::INTERRUPT_STATUS), rig.read(r::QUEUE_READY)), (0, 0, 0));
    assert!(rig.registers.kicks()[0].read().is_err(), "no kick is left over");
    rig.negotiate(FEATURES);
    rig.write(r::STATUS, S_RUNNING);
    assert_eq!(rig.log.lock().unwrap().activations[1].1, [], "no queue is left over");
}

#[test]
fn a_device_that_refuses_asks_for_a_reset() {
    let mut rig = Rig::with(true);
    rig.negotiate(FEATURES);
    rig.set_queue(0);
    rig.write(r::STATUS, S_RUNNING);
    assert_eq!(rig.read(r::STATUS), S_RUNNING | status::NEEDS_RESET);
    assert_eq!(rig.read(r::INTERRUPT_STATUS), 2, "a configuration interrupt says so");
    rig.write(r::STATUS, 0);
    assert_eq!(rig.read(r::STATUS), 0);
}

#[test]
fn kicks_reach_running_devices_only() {
    for (what, mut rig, status, arrives) in [
        ("reset", Rig::new(), 0, false),
        ("running", Rig::running(), S_RUNNING, true),
        ("failed", Rig::running(), S_RUNNING | status::FAILED, false),
    ] {
        rig.write(r::STATUS, status);
        for index in [1, 2, 65536, u32::MAX] {
            rig.write(QUEUE_NOTIFY, index);
        }
        assert!(rig.registers.kicks()[0].read().is_err(), "{what}");
        assert_eq!(rig.registers.kicks()[1].read().is_ok(), arrives, "{what}");
    }
}

#[test]
fn interrupts_stay_until_acknowledged() {
    let mut rig = Rig::running();
    let interrupt = rig.log.lock().unwrap().interrupt.clone().unwrap();
    let generation = rig.read(r::CONFIG_GENERATION);
    interrupt.queue(0);
    interrupt.config();
    assert_eq!(rig.read(r::INTERRUPT_STATUS), 3);
    assert_eq!(rig.read(r::CONFIG_GENERATION), generation + 1);
    assert_eq!(rig.registers.interrupt_line().read().unwrap(), 2);
    rig.write(r::INTERRUPT_ACK, 1);
    assert_eq!(rig.read(r::INTERRUPT_STATUS), 2, "acknowledged in part");
    rig.write(r::INTERRUPT_ACK, u32::MAX);
    rig.write(r::INTERRUPT_ACK, u32::MAX);
    assert_eq!(rig.read(r::INTERRUPT_STATUS), 0);
    rig.write(r::INTERRUPT_STATUS, 3);
    assert_eq!(rig.read(r::INTERRUPT_STATUS), 0, "read-only");
}

#[test]
fn the_end_of_the_transport_stops_the_device() {
    let rig = Rig::running();
    let log = Arc::clone(&rig.log);
    drop(rig);
    assert_eq!(log.lock().unwrap().quiesced, 1);
}

proptest! {
    #[test]
    fn any_writes_leave_the_registers_whole(
        writes in prop::collection::vec((0u64..0x120, any::<u32>(), 0u8..8), 1..200),
        running in any::<bool>(),
    ) {
        let mut rig = if running { Rig::running() } else { Rig::new() };
        for (offset, value, shape) in writes {
            let value = if shape < 6 { value % 256 } else { value };
            rig.registers.write(if shape == 7 { offset } else { offset / 4 * 4 }, &value.to_le_bytes());
            let status = rig.read(r::STATUS);
            prop_assert!(status & status::DRIVER_OK == 0 || status & status::FEATURES_OK != 0);
            prop_assert_eq!(status & !0xcf, 0);
        }
        for (features, queues) in &rig.log.lock().unwrap().activations {
            prop_assert_eq!(features & !FEATURES, 0);
            for (size, table) in queues {
                prop_assert!(size.is_power_of_two() && *size <= 128 && table + u64::from(*size) * 16 <= MEMORY);
            }
        }
    }
}
