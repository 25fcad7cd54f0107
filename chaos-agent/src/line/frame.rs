//! What stands in front of a frame that comes out of the TAP: a ticket, and behind its first 12 bytes perhaps a VLAN
//! tag that belongs to the frame (`fault_abi::ticket` says why). Reading it and putting the tag where it belongs is
//! pure; nothing here moves more than the first 58 bytes.

use std::mem::offset_of;

use fault_abi::ticket::{GUARD, TICKET, TICKET_BYTES, TICKET_SETTLES, Ticket};

use super::audit::Surplus;

/// Two MAC addresses and an EtherType.
pub const ETHERNET: usize = 14;
/// An IEEE 802.1Q tag: its EtherType and the priority and number.
pub const TAG: usize = 4;
/// The two MAC addresses, before which a TAP never puts a tag (`tun_put_user` of drivers/net/tun.c).
const ADDRESSES: usize = 12;

/// EtherTypes of tags: IEEE 802.1Q and 802.1ad.
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];

// A tag splits the ticket before its guard.
const _: () = assert!(offset_of!(Ticket, guard) == ADDRESSES && offset_of!(Ticket, magic) == 0);

/// Why a frame is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than a ticket and an Ethernet header.
    Short,
    /// Another magic: somebody else has sent a frame into the line.
    Magic,
    /// Our magic, and then no guard where one must be.
    Guard,
}

/// Reads the ticket in front of `bytes` and brings them into the form `[Ticket][Ethernet frame]`, with the tag, if
/// there was one, behind the frame's MAC addresses. Returns when the packet leaves, CLOCK_BOOTTIME in nanoseconds.
///
/// `bytes` may be the beginning of what was read, if it is 58 bytes or more.
///
/// # Errors
/// When it is no packet of this load; the bytes stay as they are.
pub fn straighten(bytes: &mut [u8], magic: u64) -> Result<u64, Malformed> {
    if bytes.len() < TICKET + ETHERNET {
        return Err(Malformed::Short);
    }
    if word(bytes, 0) != magic.to_ne_bytes() {
        return Err(Malformed::Magic);
    }
    let guard = GUARD.to_ne_bytes();
    if word::<4>(bytes, ADDRESSES) != guard {
        let is_tag = TAGS.contains(&word(bytes, ADDRESSES)) && word::<4>(bytes, ADDRESSES + TAG) == guard;
        if !is_tag {
            return Err(Malformed::Guard);
        }
        // The frame's header is longer by the tag.
        if bytes.len() < TICKET + ETHERNET + TAG {
            return Err(Malformed::Short);
        }
        // [tag][rest of the ticket][addresses] → [rest of the ticket][addresses][tag]
        bytes[ADDRESSES..TICKET + TAG + ADDRESSES].rotate_left(TAG);
    }
    Ok(u64::from_ne_bytes(word(bytes, offset_of!(Ticket, release_ns))))
}

/// The state in a ticket in front of a frame.
#[must_use]
pub fn state(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(word(bytes, offset_of!(Ticket, state)))
}

/// How many bytes hooks have counted into the line for the packet of a ticket in front of a frame.
#[must_use]
pub fn counted_bytes(bytes: &[u8]) -> u64 {
    u64::from(u32::from_ne_bytes(word(bytes, offset_of!(Ticket, flags))) >> TICKET_BYTES)
}

/// What has the far end count out of the line what never comes there (`fault_abi::ticket::TICKET_SETTLES`).
#[must_use]
pub fn settlement(magic: u64, state: u32, surplus: Surplus) -> [u8; TICKET] {
    let packets =
        i32::try_from(surplus.packets).unwrap_or(if surplus.packets < 0 { i32::MIN } else { i32::MAX });
    let mut bytes = [0; TICKET];
    let mut put = |at: usize, word: &[u8]| bytes[at..at + word.len()].copy_from_slice(word);
    put(offset_of!(Ticket, magic), &magic.to_ne_bytes());
    put(offset_of!(Ticket, interface), &packets.to_ne_bytes());
    put(offset_of!(Ticket, guard), &GUARD.to_ne_bytes());
    put(offset_of!(Ticket, release_ns), &surplus.bytes.to_ne_bytes());
    put(offset_of!(Ticket, state), &state.to_ne_bytes());
    put(offset_of!(Ticket, flags), &TICKET_SETTLES.to_ne_bytes());
    bytes
}

/// The bytes at a place; zeroes past the end, where nobody looks.
fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAGIC: u64 = 0x0123_4567_89ab_cdef;

    fn ticket(release_ns: u64, rest: [u32; 5]) -> [u8; TICKET] {
        let [interface, state, mark, priority, flags] = rest;
        let mut bytes = [0; TICKET];
        bytes[..8].copy_from_slice(&MAGIC.to_ne_bytes());
        bytes[8..12].copy_from_slice(&interface.to_ne_bytes());
        bytes[12..16].copy_from_slice(&GUARD.to_ne_bytes());
        bytes[16..24].copy_from_slice(&release_ns.to_ne_bytes());
        for (i, number) in [state, mark, priority, flags].into_iter().enumerate() {
            bytes[24 + 4 * i..28 + 4 * i].copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    /// As `tun_put_user` does.
    fn with_tag_at_12(bytes: &[u8], tag: [u8; TAG]) -> Vec<u8> {
        [&bytes[..12], &tag, &bytes[12..]].concat()
    }

    fn tag() -> impl Strategy<Value = [u8; TAG]> {
        (prop_oneof![Just(TAGS[0]), Just(TAGS[1])], any::<[u8; 2]>())
            .prop_map(|(kind, number)| [kind[0], kind[1], number[0], number[1]])
    }

    fn frame() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), ETHERNET..200)
    }

    proptest! {
        #[test]
        fn a_frame_without_a_tag_stays_as_it_is(release: u64, rest: [u32; 5], frame in frame()) {
            let before = [&ticket(release, rest)[..], &frame].concat();
            let mut bytes = before.clone();
            prop_assert_eq!(straighten(&mut bytes, MAGIC), Ok(release));
            prop_assert_eq!(bytes, before);
        }

        #[test]
        fn a_tag_goes_back_behind_the_addresses_of_its_frame(
            release: u64, rest: [u32; 5], frame in frame(), tag in tag()
        ) {
            let ticket = ticket(release, rest);
            let mut bytes = with_tag_at_12(&[&ticket[..], &frame].concat(), tag);
            prop_assert_eq!(straighten(&mut bytes, MAGIC), Ok(release));
            let wanted = [&ticket[..], &with_tag_at_12(&frame, tag)].concat();
            prop_assert_eq!(bytes, wanted);
        }

        #[test]
        fn other_bytes_are_refused_and_left_alone(noise in prop::collection::vec(any::<u8>(), 0..120), has_magic: bool) {
            let mut bytes = noise;
            if has_magic && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&MAGIC.to_ne_bytes());
            }
            let before = bytes.clone();
            let refused = straighten(&mut bytes, MAGIC);
            let wanted = match before.len() {
                0..54 => Malformed::Short,
                _ if has_magic => Malformed::Guard,
                _ => Malformed::Magic,
            };
            prop_assert_eq!(refused, Err(wanted));
            prop_assert_eq!(bytes, before);
        }
    }

    #[test]
    fn a_tagged_frame_may_not_end_within_its_header() {
        let tag = [0x81, 0x00, 0, 5];
        let mut short = with_tag_at_12(&[&ticket(1, [0; 5])[..], &[0; ETHERNET - 1]].concat(), tag);
        assert_eq!(straighten(&mut short, MAGIC), Err(Malformed::Short));
    }
}
