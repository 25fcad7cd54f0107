//! Packets that can be told apart wherever they are seen: their payload repeats a mark, a number and which
//! repetition it is, so that each fragment of a datagram has an identity too.

const MARK: [u8; 8] = *b"edge-num";
/// Length of a repetition. It divides what fits into a fragment of 1,500 bytes, IPv4 and IPv6.
const BLOCK: usize = 16;

/// A packet, or a fragment of one: the number, and the first whole repetition in it.
pub(crate) type Id = (u32, u32);

/// A payload of at least one repetition.
pub(crate) fn payload(number: u32, length: usize) -> Vec<u8> {
    let blocks = length.max(BLOCK).div_ceil(BLOCK);
    let bytes = (0..blocks).flat_map(|block| {
        let block = u32::try_from(block).unwrap();
        MARK.into_iter().chain(number.to_be_bytes()).chain(block.to_be_bytes())
    });
    bytes.take(length.max(BLOCK)).collect()
}

/// What a frame or a payload carries; none: no packet of ours.
pub(crate) fn id(bytes: &[u8]) -> Option<Id> {
    let at = bytes.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some((word(at)?, word(at + 4)?))
}

/// The numbers of all repetitions whose mark is whole.
pub(crate) fn all(bytes: &[u8]) -> Vec<u32> {
    let marks = bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    marks.filter_map(|(at, _)| word(at + MARK.len())).collect()
}
