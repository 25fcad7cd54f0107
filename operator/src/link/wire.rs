//! Bytes to CoAP messages and back, within fixed limits. The codec is `coap-lite`; what it lets pass and RFC 7252
//! forbids is refused here.

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType};
use thiserror::Error;

/// The longest datagram that is looked at: a payload of the protocol's maximum, and ample room for options.
pub const MAX_DATAGRAM: usize = edge_protocol::MAX_PAYLOAD + 128;

/// Names an exchange; eight random bytes, so that nobody off the path can guess it (RFC 7252 §5.3.1).
pub type Token = [u8; 8];

/// A response code such as 2.04: class and detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u8, pub u8);

impl Code {
    /// 2.04: stored.
    pub const CHANGED: Self = Self(2, 4);
    /// 2.05: here it is.
    pub const CONTENT: Self = Self(2, 5);
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0, self.1)
    }
}

/// What is asked of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Read it.
    Get,
    /// Replace it.
    Put,
}

/// How a message is sent (RFC 7252 §4.2, §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wants an acknowledgement.
    Confirmable,
    /// Wants none.
    NonConfirmable,
    /// Is one.
    Acknowledgement,
    /// Says that its message meant nothing to the receiver.
    Reset,
}

/// A message from a device: an empty one, or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How it was sent.
    pub kind: Kind,
    /// Its message id, or that of the message it acknowledges or resets.
    pub id: u16,
    /// The response in it; an empty message has none.
    pub response: Option<Response>,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The token of the request; ours have eight bytes, so any other is none of ours.
    pub token: Token,
    /// How it went.
    pub code: Code,
    /// CBOR, at most [`edge_protocol::MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
    /// Sequence of an observation (RFC 7641 §3.4), of at most 24 bits.
    pub observe: Option<u32>,
}

/// Why a datagram is no message for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// Longer than [`MAX_DATAGRAM`], or its payload than the protocol allows.
    #[error("too long")]
    TooLong,
    /// Not CoAP.
    #[error("no CoAP message")]
    Syntax,
    /// CoAP of another version, which is ignored silently (RFC 7252 §3).
    #[error("another version of CoAP")]
    Version,
    /// An empty message with a token or payload, or a kind that does not go with the code.
    #[error("a message that RFC 7252 does not allow")]
    Form,
    /// A request; we are a client.
    #[error("a request")]
    Request,
    /// A response to a token that is none of ours.
    #[error("a token of another length than ours")]
    Token,
    /// An option that must be understood and is not.
    #[error("an unknown critical option")]
    Option,
}

/// A message out of a datagram.
///
/// # Errors
/// When it is nothing that a device may send to a client.
pub fn parse(bytes: &[u8]) -> Result<Message, WireError> {
    if bytes.len() > MAX_DATAGRAM {
        return Err(WireError::TooLong);
    }
    let packet = Packet::from_bytes(bytes).map_err(|_| WireError::Syntax)?;
    if packet.header.get_version() != 1 {
        return Err(WireError::Version);
    }
    let kind = match packet.header.get_type() {
        MessageType::Confirmable => Kind::Confirmable,
        MessageType::NonConfirmable => Kind::NonConfirmable,
        MessageType::Acknowledgement => Kind::Acknowledgement,
        MessageType::Reset => Kind::Reset,
    };
    let id = packet.header.message_id;
    let code = u8::from(packet.header.code);
    if code == 0 {
        return if bytes.len() == 4 && kind != Kind::NonConfirmable {
            Ok(Message { kind, id, response: None })
        } else {
            Err(WireError::Form)
        };
    }
    let code = Code(code >> 5, code & 0x1f);
    match (code.0, kind) {
        (0, _) => return Err(WireError::Request),
        (2 | 4 | 5, Kind::Confirmable | Kind::NonConfirmable | Kind::Acknowledgement) => {}
        _ => return Err(WireError::Form),
    }
    let token = packet.get_token().try_into().map_err(|_| WireError::Token)?;
    if packet.options().any(|(number, _)| is_unknown_and_critical(*number)) {
        return Err(WireError::Option);
    }
    if packet.payload.len() > edge_protocol::MAX_PAYLOAD {
        return Err(WireError::TooLong);
    }
    let observe = packet.get_first_option(CoapOption::Observe).filter(|bytes| bytes.len() <= 3);
    let observe = observe.map(|bytes| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)));
    Ok(Message { kind, id, response: Some(Response { token, code, payload: packet.payload, observe }) })
}

/// Odd numbers are critical (RFC 7252 §5.4.1); none of them makes sense in the responses we ask for.
fn is_unknown_and_critical(number: u16) -> bool {
    number % 2 == 1
}

/// A confirmable `GET` that asks to be told of changes, too (RFC 7641 §2).
///
/// # Errors
/// None for the paths of the protocol.
pub fn observe(path: &str, id: u16, token: Token) -> Result<Vec<u8>, WireError> {
    let mut packet = packet(Method::Get, path, id, token, Vec::new())?;
    packet.set_observe_value(0);
    packet.to_bytes().map_err(|_| WireError::TooLong)
}

/// A confirmable request.
///
/// # Errors
/// When the payload is longer than the protocol allows.
pub fn request(
    method: Method,
    path: &str,
    id: u16,
    token: Token,
    payload: Vec<u8>,
) -> Result<Vec<u8>, WireError> {
    packet(method, path, id, token, payload)?.to_bytes().map_err(|_| WireError::TooLong)
}

fn packet(method: Method, path: &str, id: u16, token: Token, payload: Vec<u8>) -> Result<Packet, WireError> {
    if payload.len() > edge_protocol::MAX_PAYLOAD {
        return Err(WireError::TooLong);
    }
    let mut packet = Packet::new();
    packet.header.set_type(MessageType::Confirmable);
    packet.header.message_id = id;
    packet.header.code = MessageClass::Request(match method {
        Method::Get => RequestType::Get,
        Method::Put => RequestType::Put,
    });
    packet.set_token(token.to_vec());
    packet.add_option(CoapOption::UriPath, path.as_bytes().to_vec());
    // A number in as few bytes as can be; 60 takes one.
    let format = edge_protocol::CONTENT_FORMAT_CBOR.to_be_bytes()[1..].to_vec();
    if payload.is_empty() {
        packet.add_option(CoapOption::Accept, format);
    } else {
        packet.add_option(CoapOption::ContentFormat, format);
    }
    packet.payload = payload;
    Ok(packet)
}

/// An empty acknowledgement or reset of the message `id`.
pub fn empty(kind: Kind, id: u16) -> [u8; 4] {
    let bits: u8 = match kind {
        Kind::Confirmable => 0,
        Kind::NonConfirmable => 1,
        Kind::Acknowledgement => 2,
        Kind::Reset => 3,
    };
    let [high, low] = id.to_be_bytes();
    [0x40 | bits << 4, 0, high, low]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(kind: MessageType, token: &[u8], payload: &[u8]) -> Packet {
        let mut packet = Packet::new();
        packet.header.set_type(kind);
        packet.header.message_id = 7;
        packet.header.code = MessageClass::from(0x45);
        packet.set_token(token.to_vec());
        packet.payload = payload.to_vec();
        packet
    }

    #[test]
    fn a_piggybacked_response_is_read() {
        let bytes = response(MessageType::Acknowledgement, b"12345678", b"state").to_bytes().unwrap();
        let payload = b"state".to_vec();
        let expected = Response { token: *b"12345678", code: Code::CONTENT, payload, observe: None };
        let message = Message { kind: Kind::Acknowledgement, id: 7, response: Some(expected) };
        assert_eq!(parse(&bytes), Ok(message));
    }

    #[test]
    fn the_sequence_of_an_observation_is_read_and_asked_for() {
        let mut packet = response(MessageType::NonConfirmable, b"12345678", b"state");
        packet.set_observe_value(0x01_02_03);
        let message = parse(&packet.to_bytes().unwrap()).unwrap();
        assert_eq!(message.response.unwrap().observe, Some(0x01_02_03));
        let asked = Packet::from_bytes(&observe("state", 9, *b"12345678").unwrap()).unwrap();
        assert_eq!(asked.get_observe_value(), Some(Ok(0)));
    }

    #[test]
    fn empty_messages_are_written_as_they_are_read() {
        for kind in [Kind::Acknowledgement, Kind::Reset, Kind::Confirmable] {
            assert_eq!(parse(&empty(kind, 513)), Ok(Message { kind, id: 513, response: None }));
        }
    }

    #[test]
    fn what_no_device_may_send_is_refused() {
        let token = b"12345678";
        let mut request = response(MessageType::Confirmable, token, b"");
        request.header.code = MessageClass::Request(RequestType::Get);
        let mut other_version = response(MessageType::Acknowledgement, token, b"");
        other_version.header.set_version(2);
        let mut critical = response(MessageType::Acknowledgement, token, b"");
        critical.add_option(CoapOption::Unknown(2049), vec![1]);
        let cases = [
            (request, WireError::Request),
            (other_version, WireError::Version),
            (critical, WireError::Option),
            (response(MessageType::Acknowledgement, b"short", b""), WireError::Token),
            (response(MessageType::Reset, token, b"x"), WireError::Form),
            (response(MessageType::NonConfirmable, token, &[0; 1025]), WireError::TooLong),
        ];
        for (packet, expected) in cases {
            assert_eq!(parse(&packet.to_bytes().unwrap()), Err(expected));
        }
        assert_eq!(parse(&[0x60, 0, 0, 1, 0xff]), Err(WireError::Form));
        assert_eq!(parse(&[0; MAX_DATAGRAM + 1]), Err(WireError::TooLong));
        assert_eq!(parse(b"\x40"), Err(WireError::Syntax));
    }

    #[test]
    fn a_request_names_its_path_and_carries_its_payload() {
        let bytes = request(Method::Put, "desired", 9, *b"12345678", vec![1, 2, 3]).unwrap();
        let packet = Packet::from_bytes(&bytes).unwrap();
        assert_eq!(packet.header.code, MessageClass::Request(RequestType::Put));
        assert_eq!(packet.header.message_id, 9);
        assert_eq!(packet.get_first_option(CoapOption::UriPath), Some(&b"desired".to_vec()));
        assert_eq!(packet.get_first_option(CoapOption::ContentFormat), Some(&vec![60]));
        assert_eq!(packet.payload, [1, 2, 3]);
        assert_eq!(request(Method::Put, "desired", 9, [0; 8], vec![0; 1025]), Err(WireError::TooLong));
    }

    proptest! {
        #[test]
        fn no_datagram_panics_and_none_grows(bytes in prop::collection::vec(any::<u8>(), 0..1400)) {
            if let Ok(message) = parse(&bytes) {
                let payload = message.response.map_or(0, |response| response.payload.len());
                prop_assert!(payload <= bytes.len());
            }
        }

        #[test]
        fn no_damaged_response_panics(at in 0_usize..40, byte in any::<u8>(), cut in 0_usize..40) {
            let mut bytes = response(MessageType::Acknowledgement, b"12345678", &[7; 28]).to_bytes().unwrap();
            bytes[at % 40] = byte;
            bytes.truncate(40 - cut);
            let _parsed = parse(&bytes);
        }
    }
}
