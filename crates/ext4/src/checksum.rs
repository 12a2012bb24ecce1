//! The checksums of ext4 and its journal. All are running states: no inversion at the beginning or the end.

/// CRC-32C (Castagnoli), reflected: all metadata with `metadata_csum`, and the journal's versions 2 and 3.
pub(crate) fn crc32c(state: u32, bytes: &[u8]) -> u32 {
    let mut chunks = bytes.chunks_exact(8);
    let mut state = state;
    for chunk in &mut chunks {
        let low = state ^ u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        let [a, b, c, d] = low.to_le_bytes().map(usize::from);
        let [e, f, g, h] = [chunk[4], chunk[5], chunk[6], chunk[7]].map(usize::from);
        state = CASTAGNOLI[7][a]
            ^ CASTAGNOLI[6][b]
            ^ CASTAGNOLI[5][c]
            ^ CASTAGNOLI[4][d]
            ^ CASTAGNOLI[3][e]
            ^ CASTAGNOLI[2][f]
            ^ CASTAGNOLI[1][g]
            ^ CASTAGNOLI[0][h];
    }
    let step = |state: u32, &byte: &u8| state >> 8 ^ CASTAGNOLI[0][usize::from(state.to_le_bytes()[0] ^ byte)];
    chunks.remainder().iter().fold(state, step)
}

/// CRC-16 (ANSI), reflected: group descriptors with `uninit_bg`.
pub(crate) fn crc16(state: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(state, |state, &byte| {
        (0..8).fold(state ^ u16::from(byte), |state, _| if state & 1 == 1 { state >> 1 ^ 0xA001 } else { state >> 1 })
    })
}

/// CRC-32 (IEEE 802.3), not reflected: version 1 of the journal's checksums, over whole transactions.
pub(crate) fn crc32_be(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |state, &byte| state << 8 ^ ETHERNET[usize::from(state.to_be_bytes()[0] ^ byte)])
}

/// Slicing by eight: table `n` is for a byte that `n` others follow.
#[allow(clippy::cast_possible_truncation, reason = "indices are below 256")]
const CASTAGNOLI: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82F6_3B78 } else { value >> 1 };
            bit += 1;
        }
        tables[0][index] = value;
        index += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut index = 0;
        while index < 256 {
            let before = tables[table - 1][index];
            tables[table][index] = before >> 8 ^ tables[0][(before & 0xFF) as usize];
            index += 1;
        }
        table += 1;
    }
    tables
};

#[allow(clippy::cast_possible_truncation, reason = "indices are below 256")]
const ETHERNET: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = (index as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            value = if value >> 31 == 1 { value << 1 ^ 0x04C1_1DB7 } else { value << 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the catalogue of parametrised CRC algorithms.
    #[test]
    fn check_values() {
        let text = b"123456789";
        assert_eq!(!crc32c(!0, text), 0xE306_9283);
        assert_eq!(crc16(0, text), 0xBB3D);
        assert_eq!(crc16(!0, text), 0x4B37);
        assert_eq!(!crc32_be(!0, text), 0xFC89_1918);
    }

    #[test]
    fn states_run_on() {
        let bytes: Vec<u8> = (0..=255).collect();
        for cut in [0, 1, 7, 8, 9, 100, 256] {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(crc32c(crc32c(5, head), tail), crc32c(5, &bytes));
        }
    }
}
