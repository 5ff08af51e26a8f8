//! Pickles without what nobody reads back.
//!
//! A pickler memoises every value, in case it meets it again: ten values for every tensor of a
//! checkpoint, of which two are ever asked for. A reader that keeps them all takes five times the
//! memory. Only the whole pickle tells which are needed, so this looks through it first: it finds
//! where it ends, that each argument is as long as it says, and which memo entries are read, and
//! copies it without the others. Frames go, too. Nothing is interpreted beyond that: what the
//! opcodes do is the business of the reader.

use std::collections::HashSet;

/// Why there is no pickle at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickleFault {
    /// The data ends before the pickle does.
    CutOff,
    /// An opcode that is unknown, or that no checkpoint needs.
    Opcode(u8),
    /// A number that is none, or beyond all bounds, or a line without end.
    Argument,
    /// Memo entries that are numbered in two ways.
    Memo,
}

/// A line of text, as of a global's name, has at most so many bytes.
const LINE_AT_MOST: usize = 1024;

/// What an opcode does to the memo.
enum Memo {
    Put(u32),
    PutNext,
    Get(u32),
}

/// One opcode with its argument.
struct Step {
    start: usize,
    end: usize,
    opcode: u8,
    memo: Option<Memo>,
}

/// The pickle at the start of `data` without needless entries, and how many bytes of `data` it is.
pub fn strip_pickle(data: &[u8]) -> Result<(Vec<u8>, usize), PickleFault> {
    let mut read = HashSet::new();
    let mut puts = 0u32;
    let mut numbered = false;
    let mut at = 0;
    loop {
        let step = next_step(data, at)?;
        match step.memo {
            Some(Memo::Get(index)) => {
                read.insert(index);
            }
            Some(Memo::Put(_)) => numbered = true,
            Some(Memo::PutNext) => puts = puts.checked_add(1).ok_or(PickleFault::Memo)?,
            None => {}
        }
        at = step.end;
        if step.opcode == b'.' {
            break;
        }
    }
    if numbered && puts > 0 {
        return Err(PickleFault::Memo);
    }
    let end = at;
    let mut stripped = Vec::new();
    let (mut at, mut next) = (0, 0u32);
    while at < end {
        let step = next_step(data, at)?;
        at = step.end;
        match step.memo {
            Some(Memo::Put(index)) if !read.contains(&index) => continue,
            Some(Memo::PutNext) => {
                if read.contains(&next) {
                    stripped.push(b'r');
                    stripped.extend_from_slice(&next.to_le_bytes());
                }
                next += 1;
                continue;
            }
            _ => {}
        }
        if step.opcode != b'\x95' {
            stripped.extend_from_slice(&data[step.start..step.end]);
        }
    }
    Ok((stripped, end))
}

fn next_step(data: &[u8], start: usize) -> Result<Step, PickleFault> {
    let opcode = *data.get(start).ok_or(PickleFault::CutOff)?;
    let argument = start + 1;
    let number = |width: usize| -> Result<u64, PickleFault> {
        let bytes = data
            .get(argument..argument + width)
            .ok_or(PickleFault::CutOff)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    // an argument of so many bytes behind its own length
    let counted = |width: usize| -> Result<usize, PickleFault> {
        let length = number(width)?;
        let left = (data.len() - argument - width) as u64;
        if length > left {
            return Err(PickleFault::CutOff);
        }
        Ok(argument + width + length as usize)
    };
    let line = |from: usize| -> Result<usize, PickleFault> {
        let rest = &data[from.min(data.len())..];
        let longest = &rest[..rest.len().min(LINE_AT_MOST)];
        match longest.iter().position(|byte| *byte == b'\n') {
            Some(length) => Ok(from + length + 1),
            None if longest.len() < LINE_AT_MOST => Err(PickleFault::CutOff),
            None => Err(PickleFault::Argument),
        }
    };
    let index_line = || -> Result<(usize, u32), PickleFault> {
        let end = line(argument)?;
        let text = std::str::from_utf8(&data[argument..end - 1]).ok();
        let index = text.and_then(|text| text.parse().ok());
        Ok((end, index.ok_or(PickleFault::Argument)?))
    };
    let mut memo = None;
    let end = match opcode {
        b'.' | b'N' | b'\x88' | b'\x89' | b'(' | b')' | b']' | b'}' | b'\x8f' | b't' | b'\x85'
        | b'\x86' | b'\x87' | b'l' | b'd' | b'a' | b'e' | b's' | b'u' | b'\x90' | b'\x91'
        | b'0' | b'1' | b'2' | b'\x93' | b'R' | b'\x81' | b'\x92' | b'b' | b'Q' => argument,
        b'K' | b'\x80' => argument + 1,
        b'M' => argument + 2,
        b'J' => argument + 4,
        b'G' | b'\x95' => argument + 8,
        b'\x8a' | b'\x8c' | b'U' | b'C' => counted(1)?,
        b'\x8b' | b'X' | b'T' | b'B' => counted(4)?,
        b'\x8d' | b'\x8e' | b'\x96' => counted(8)?,
        b'I' | b'L' | b'F' => line(argument)?,
        b'c' => line(line(argument)?)?,
        b'\x94' => {
            memo = Some(Memo::PutNext);
            argument
        }
        b'q' => {
            memo = Some(Memo::Put(number(1)? as u32));
            argument + 1
        }
        b'r' => {
            memo = Some(Memo::Put(number(4)? as u32));
            argument + 4
        }
        b'p' => {
            let (end, index) = index_line()?;
            memo = Some(Memo::Put(index));
            end
        }
        b'h' => {
            memo = Some(Memo::Get(number(1)? as u32));
            argument + 1
        }
        b'j' => {
            memo = Some(Memo::Get(number(4)? as u32));
            argument + 4
        }
        b'g' => {
            let (end, index) = index_line()?;
            memo = Some(Memo::Get(index));
            end
        }
        unknown => return Err(PickleFault::Opcode(unknown)),
    };
    if end > data.len() {
        return Err(PickleFault::CutOff);
    }
    Ok(Step {
        start,
        end,
        opcode,
        memo,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_back_stays() {
        // [x, x] in protocol 2: the list is memoised and never read, the text is
        let pickle = b"\x80\x02]q\x00(X\x01\0\0\0xq\x01h\x01e.trailing";
        let expected = b"\x80\x02](X\x01\0\0\0xq\x01h\x01e.";
        assert_eq!(strip_pickle(pickle), Ok((expected.to_vec(), 19)));
    }

    #[test]
    fn numbered_by_their_order() {
        // the same in protocol 4, framed
        let pickle = b"\x80\x04\x95\x09\0\0\0\0\0\0\0]\x94(\x8c\x01x\x94h\x01e.";
        let expected = b"\x80\x04](\x8c\x01xr\x01\0\0\0h\x01e.";
        assert_eq!(strip_pickle(pickle), Ok((expected.to_vec(), pickle.len())));
    }

    #[test]
    fn what_is_broken_is_named() {
        assert_eq!(strip_pickle(b""), Err(PickleFault::CutOff));
        assert_eq!(strip_pickle(b"]"), Err(PickleFault::CutOff));
        assert_eq!(
            strip_pickle(b"X\xff\xff\xff\xff."),
            Err(PickleFault::CutOff)
        );
        assert_eq!(
            strip_pickle(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff."),
            Err(PickleFault::CutOff)
        );
        assert_eq!(strip_pickle(b"cos\n"), Err(PickleFault::CutOff));
        assert_eq!(strip_pickle(b"i"), Err(PickleFault::Opcode(b'i')));
        assert_eq!(strip_pickle(b"gx\n."), Err(PickleFault::Argument));
        assert_eq!(strip_pickle(&[b'c'; 2000]), Err(PickleFault::Argument));
        assert_eq!(strip_pickle(b"Nq\0N\x94."), Err(PickleFault::Memo));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(data: Vec<u8>) {
            if let Ok((stripped, end)) = strip_pickle(&data) {
                assert!(end <= data.len());
                // what was stripped has nothing left to strip
                assert_eq!(strip_pickle(&stripped), Ok((stripped.clone(), stripped.len())));
            }
        }
    }
}
