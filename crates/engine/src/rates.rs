//! How fast a container may use its disks: `--device-read-bps` and its three siblings.
//!
//! With Docker these name a device of the host. A container here has disks of its own: its scratch disk, called `/`,
//! and a disk for each volume, called by the volume's name or by the path that it is mounted on. A limit names one of
//! them, or none, or (from a script that was written for Docker) a device below `/dev`; the latter two mean each disk
//! that the container can write.

use std::num::NonZeroU64;

use machine::{DiskRates, Rate};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    mounts::VolumeMount,
    quantity::{QuantityError, parse_size},
};

/// Which of the four flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum RateKind {
    ReadBytes,
    WriteBytes,
    ReadOperations,
    WriteOperations,
}

/// One limit, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateRequest {
    /// The disk; none for each.
    pub device: Option<String>,
    /// Of what.
    pub kind: RateKind,
    /// In a second.
    pub per_second: NonZeroU64,
}

/// A limit that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RateError {
    /// Text that is none.
    #[error("invalid rate {0:?}: expected [DISK:]RATE, as in /:10m or data:200")]
    Text(String),
    /// No rate at all.
    #[error("rate {0:?} would never let anything through")]
    Zero(String),
    /// A disk that the container does not have.
    #[error("the container has no disk {0:?}: there is / and each volume, by its name or its path")]
    NoDisk(String),
    /// A size.
    #[error(transparent)]
    Size(#[from] QuantityError),
}

/// Parses `[DISK:]RATE`: bytes with an optional unit, or a plain number of operations.
///
/// # Errors
///
/// [`RateError`].
pub fn parse(text: &str, kind: RateKind) -> Result<RateRequest, RateError> {
    let (device, rate) = text.rsplit_once(':').map_or((None, text), |(device, rate)| (Some(device), rate));
    let per_second = match kind {
        RateKind::ReadBytes | RateKind::WriteBytes => parse_size(rate)?,
        RateKind::ReadOperations | RateKind::WriteOperations => {
            rate.parse().map_err(|_| RateError::Text(text.to_owned()))?
        }
    };
    let device = device.filter(|device| !device.starts_with("/dev/")).map(str::to_owned);
    if device.as_deref() == Some("") {
        return Err(RateError::Text(text.to_owned()));
    }
    let per_second = NonZeroU64::new(per_second).ok_or_else(|| RateError::Zero(text.to_owned()))?;
    Ok(RateRequest { device, kind, per_second })
}

/// The rates of the scratch disk, and those of each of `volumes`. The last limit of a kind holds.
///
/// # Errors
///
/// [`RateError::NoDisk`].
pub fn resolve(requests: &[RateRequest], volumes: &[VolumeMount]) -> Result<(DiskRates, Vec<DiskRates>), RateError> {
    let mut scratch = DiskRates::default();
    let mut rates = vec![DiskRates::default(); volumes.len()];
    for request in requests {
        let named = |volume: &VolumeMount, device: &str| volume.volume == device || volume.target == device;
        let mut met = false;
        if request.device.as_deref().is_none_or(|device| device == "/") {
            set(&mut scratch, request);
            met = true;
        }
        for (volume, rates) in volumes.iter().zip(&mut rates) {
            if request.device.as_deref().is_none_or(|device| named(volume, device)) {
                set(rates, request);
                met = true;
            }
        }
        if !met {
            return Err(RateError::NoDisk(request.device.clone().unwrap_or_default()));
        }
    }
    Ok((scratch, rates))
}

fn set(DiskRates { read, write }: &mut DiskRates, request: &RateRequest) {
    let bytes = |rate: &mut Rate| rate.bytes = Some(request.per_second);
    let operations = |rate: &mut Rate| rate.operations = Some(request.per_second);
    match request.kind {
        RateKind::ReadBytes => bytes(read),
        RateKind::WriteBytes => bytes(write),
        RateKind::ReadOperations => operations(read),
        RateKind::WriteOperations => operations(write),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts;

    #[test]
    fn rates_are_parsed() {
        let parsed = |text, kind| parse(text, kind).map(|rate| (rate.device, rate.per_second.get()));
        let named = |device: &str, rate| Ok((Some(device.to_owned()), rate));
        assert_eq!(parsed("/:1m", RateKind::ReadBytes), named("/", 1 << 20));
        assert_eq!(parsed("data:200", RateKind::WriteOperations), named("data", 200));
        assert_eq!(parsed("/dev/sda:1mb", RateKind::WriteBytes), Ok((None, 1 << 20)));
        assert_eq!(parsed("5", RateKind::ReadOperations), Ok((None, 5)));
        assert!(matches!(parsed("/:0", RateKind::ReadBytes), Err(RateError::Zero(_))));
        for (text, kind) in [
            ("", RateKind::ReadBytes),
            ("/:", RateKind::ReadBytes),
            (":5", RateKind::ReadBytes),
            ("/:1m", RateKind::ReadOperations),
            ("/:-1", RateKind::ReadOperations),
            ("1m:/", RateKind::WriteBytes),
        ] {
            assert!(parse(text, kind).is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_finds_its_disk() {
        let request = mounts::parse_volume("data:/srv").unwrap();
        let volumes = mounts::resolve(&"0".repeat(64), &[request], &[], &["/cache".to_owned()]).unwrap();
        let rate = |text: &str| parse(text, RateKind::WriteBytes).unwrap();
        let bytes = |rates: DiskRates| rates.write.bytes.map(NonZeroU64::get);
        let resolved = |texts: &[&str]| {
            let requests: Vec<_> = texts.iter().map(|text| rate(text)).collect();
            resolve(&requests, &volumes)
                .map(|(scratch, volumes)| (bytes(scratch), volumes.into_iter().map(bytes).collect::<Vec<_>>()))
        };
        assert_eq!(resolved(&[]), Ok((None, vec![None, None])));
        assert_eq!(resolved(&["9"]), Ok((Some(9), vec![Some(9), Some(9)])));
        assert_eq!(resolved(&["/:9", "data:8", "/cache:7"]), Ok((Some(9), vec![Some(8), Some(7)])));
        assert_eq!(resolved(&["9", "/srv:8"]), Ok((Some(9), vec![Some(8), Some(9)])));
        assert_eq!(resolved(&["other:9"]), Err(RateError::NoDisk("other".into())));
    }
}
