//! CoAP messages (RFC 7252) in and out: which datagram is a request to a device, and the bytes of an answer.
//! Knows message types, codes and options; nothing of sockets and of what a device does.

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType, ResponseType};
use edge_protocol::{
    CONTENT_FORMAT_CBOR, DecodeError, DesiredCommand, EncodeError, MAX_PAYLOAD, OwnerCommand, PATH_DESIRED,
    PATH_OWNER, PATH_STATE, Payload, Report, decode, encode,
};

use crate::device::Reply;

/// The largest datagram that is looked at, in bytes; larger ones are no messages of this protocol.
pub const MAX_DATAGRAM: usize = 1280;

/// What a datagram is.
#[derive(Debug)]
pub enum Incoming {
    /// A request, to be answered.
    Request(Request),
    /// Not a message, or none that concerns a server: says nothing.
    Ignore,
    /// The sender does not know what our message of this id is about.
    ResetBy(u16),
    /// A confirmable message that is no request (RFC 7252 §4.2): answered by these bytes, a Reset.
    Reset(Vec<u8>),
}

/// A request, with what its answer needs.
#[derive(Debug)]
pub struct Request {
    confirmable: bool,
    message_id: u16,
    token: Vec<u8>,
    /// GET, PUT, or another one that is refused; for metrics.
    pub method: &'static str,
    /// Of a GET: 0 asks to be told of changes, 1 to be told no more (RFC 7641 §2).
    pub observe: Option<u32>,
    /// What it asks for, or why it is refused.
    pub asked: Result<Asked, Rejection>,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// `PUT /desired`.
    Put(DesiredCommand),
    /// `PUT /owner`.
    Own(OwnerCommand),
    /// `GET /state`.
    Get,
}

/// A request that never reaches the device.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    code: ResponseType,
    text: String,
}

impl Rejection {
    fn new(code: ResponseType, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The device could not do what it was asked for, by no fault of who asked: 5.00.
    #[must_use]
    pub fn internal(text: impl Into<String>) -> Self {
        Self::new(ResponseType::InternalServerError, text)
    }
}

/// Reads a datagram.
#[must_use]
pub fn read(datagram: &[u8]) -> Incoming {
    if datagram.len() > MAX_DATAGRAM {
        return Incoming::Ignore;
    }
    let Ok(packet) = Packet::from_bytes(datagram) else {
        return reset_unless_harmless(datagram);
    };
    // Other versions "MUST be silently ignored" (RFC 7252 §3).
    if packet.header.get_version() != 1 {
        return Incoming::Ignore;
    }
    match (packet.header.get_type(), packet.header.code) {
        (MessageType::Confirmable | MessageType::NonConfirmable, MessageClass::Request(method)) => {
            Incoming::Request(request(&packet, method))
        }
        (MessageType::Reset, MessageClass::Empty) => Incoming::ResetBy(packet.header.message_id),
        (MessageType::Confirmable, _) => Incoming::Reset(empty(MessageType::Reset, packet.header.message_id)),
        _ => Incoming::Ignore,
    }
}

/// A malformed message is rejected with a Reset if it is confirmable (RFC 7252 §4.2), else ignored.
fn reset_unless_harmless(datagram: &[u8]) -> Incoming {
    match *datagram {
        // Version 1, type confirmable.
        [first, _, high, low, ..] if first >> 4 == 0b0100 => {
            Incoming::Reset(empty(MessageType::Reset, u16::from_be_bytes([high, low])))
        }
        _ => Incoming::Ignore,
    }
}

/// An empty message: a header alone.
fn empty(kind: MessageType, message_id: u16) -> Vec<u8> {
    let kind = match kind {
        MessageType::Confirmable => 0,
        MessageType::NonConfirmable => 1,
        MessageType::Acknowledgement => 2,
        MessageType::Reset => 3,
    };
    let [high, low] = message_id.to_be_bytes();
    vec![0b0100_0000 | kind << 4, 0, high, low]
}

fn request(packet: &Packet, method: RequestType) -> Request {
    Request {
        confirmable: packet.header.get_type() == MessageType::Confirmable,
        message_id: packet.header.message_id,
        token: packet.get_token().to_vec(),
        method: match method {
            RequestType::Get => "GET",
            RequestType::Put => "PUT",
            _ => "other",
        },
        observe: number(packet, CoapOption::Observe).filter(|_| method == RequestType::Get),
        asked: asked(packet, method),
    }
}

fn asked(packet: &Packet, method: RequestType) -> Result<Asked, Rejection> {
    use ResponseType as Code;

    reject_unknown_options(packet)?;
    if packet.payload.len() > MAX_PAYLOAD {
        let text = format!("at most {MAX_PAYLOAD} bytes");
        return Err(Rejection::new(Code::RequestEntityTooLarge, text));
    }
    let path: Vec<&[u8]> =
        packet.get_option(CoapOption::UriPath).into_iter().flatten().map(Vec::as_slice).collect();
    match (method, path.as_slice()) {
        (RequestType::Get, [path]) if *path == PATH_STATE.as_bytes() => {
            if number(packet, CoapOption::Accept)
                .is_some_and(|format| format != u32::from(CONTENT_FORMAT_CBOR))
            {
                return Err(Rejection::new(Code::NotAcceptable, "reports are application/cbor"));
            }
            Ok(Asked::Get)
        }
        (RequestType::Put, [path]) if *path == PATH_DESIRED.as_bytes() => command(packet).map(Asked::Put),
        (RequestType::Put, [path]) if *path == PATH_OWNER.as_bytes() => command(packet).map(Asked::Own),
        (_, [path]) if [PATH_STATE, PATH_DESIRED, PATH_OWNER].map(str::as_bytes).contains(path) => {
            Err(Rejection::new(Code::MethodNotAllowed, RESOURCES))
        }
        _ => Err(Rejection::new(Code::NotFound, RESOURCES)),
    }
}

const RESOURCES: &str = "GET /state, PUT /desired or PUT /owner";

fn command<T: Payload>(packet: &Packet) -> Result<T, Rejection> {
    if number(packet, CoapOption::ContentFormat) != Some(CONTENT_FORMAT_CBOR.into()) {
        let text = "commands are application/cbor";
        return Err(Rejection::new(ResponseType::UnsupportedContentFormat, text));
    }
    decode(&packet.payload)
        .map_err(|error: DecodeError| Rejection::new(ResponseType::BadRequest, error.to_string()))
}

/// Unknown options with an odd number are critical: 4.02 (RFC 7252 §5.4.1). The others are elective.
fn reject_unknown_options(packet: &Packet) -> Result<(), Rejection> {
    let known = [
        CoapOption::UriHost,
        CoapOption::UriPort,
        CoapOption::UriPath,
        CoapOption::UriQuery,
        CoapOption::Accept,
    ]
    .map(u16::from);
    match packet.options().map(|(number, _)| *number).find(|n| n % 2 == 1 && !known.contains(n)) {
        Some(number) => Err(Rejection::new(ResponseType::BadOption, format!("option {number}"))),
        None => Ok(()),
    }
}

/// The value of a uint option (RFC 7252 §3.2); none when it is absent or longer than four bytes.
fn number(packet: &Packet, option: CoapOption) -> Option<u32> {
    let bytes = packet.get_first_option(option).filter(|bytes| bytes.len() <= 4)?;
    Some(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

/// The bytes of an answer, and its code for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What is sent.
    pub bytes: Vec<u8>,
    /// As `2.05`.
    pub code: String,
}

impl Request {
    /// Its token.
    #[must_use]
    pub fn token(&self) -> &[u8] {
        &self.token
    }

    /// Names this message among those of its sender.
    #[must_use]
    pub fn message_id(&self) -> u16 {
        self.message_id
    }

    /// The answer to this request: piggybacked on the acknowledgement of a confirmable one (RFC 7252
    /// §5.2.1), else a message of its own with the id `own_message_id`.
    #[must_use]
    pub fn answer(
        &self,
        reply: Result<&Reply, &Rejection>,
        own_message_id: u16,
        observe: Option<u32>,
    ) -> Answer {
        let (code, payload, format) = match reply.map(content) {
            Ok(Ok((code, payload))) => (code, payload, Some(CONTENT_FORMAT_CBOR)),
            Ok(Err(error)) => {
                (ResponseType::InternalServerError.into_class(), error.to_string().into(), None)
            }
            Err(rejection) => (rejection.code.into_class(), rejection.text.clone().into(), None),
        };
        let mut packet = Packet::new();
        packet.header.set_version(1);
        packet.header.code = code;
        if self.confirmable {
            packet.header.set_type(MessageType::Acknowledgement);
            packet.header.message_id = self.message_id;
        } else {
            packet.header.set_type(MessageType::NonConfirmable);
            packet.header.message_id = own_message_id;
        }
        packet.set_token(self.token.clone());
        if let Some(format) = format.filter(|_| !payload.is_empty()) {
            packet.add_option(CoapOption::ContentFormat, minimal(format));
        }
        if let Some(sequence) = observe {
            packet.set_observe_value(sequence);
        }
        packet.payload = payload;
        // Header, token, one option and a payload within its limit fit; if not, an empty acknowledgement.
        let bytes = packet
            .to_bytes()
            .unwrap_or_else(|_| empty(MessageType::Acknowledgement, packet.header.message_id));
        Answer { bytes, code: code.to_string() }
    }
}

/// What an observer is told: a message of its own, which is not acknowledged and may be lost.
#[must_use]
pub fn notification(report: &Report, token: &[u8], message_id: u16, sequence: u32) -> Option<Vec<u8>> {
    let mut packet = Packet::new();
    packet.header.set_version(1);
    packet.header.set_type(MessageType::NonConfirmable);
    packet.header.message_id = message_id;
    packet.header.code = ResponseType::Content.into_class();
    packet.set_token(token.to_vec());
    packet.set_observe_value(sequence);
    packet.add_option(CoapOption::ContentFormat, minimal(CONTENT_FORMAT_CBOR));
    packet.payload = encode(report).ok()?;
    packet.to_bytes().ok()
}

fn content(reply: &Reply) -> Result<(MessageClass, Vec<u8>), EncodeError> {
    Ok(match reply {
        Reply::Stored => (ResponseType::Changed.into_class(), Vec::new()),
        Reply::State(report) => (ResponseType::Content.into_class(), encode(report)?),
        Reply::Refused(refusal) => {
            let (class, detail) = refusal.reason.code();
            ((class << 5 | detail).into(), encode(refusal)?)
        }
    })
}

/// An option's uint without leading zeros (RFC 7252 §3.2).
fn minimal(number: u16) -> Vec<u8> {
    number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()
}

trait IntoClass {
    fn into_class(self) -> MessageClass;
}

impl IntoClass for ResponseType {
    fn into_class(self) -> MessageClass {
        MessageClass::Response(self)
    }
}
