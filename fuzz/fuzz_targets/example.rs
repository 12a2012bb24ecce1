#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if data.len() > 3 && data[0] == b'b' && data[1] == b'o' && data[2] == b'a' && data[3] == b't' {
        panic!("found");
    }
});
