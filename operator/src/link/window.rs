//! Which exchange a datagram belongs to. Pure and bounded: as many entries as exchanges may be open, and a ring
//! of those that ended, so that late and repeated answers are told from noise.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use thiserror::Error;

use super::wire::{Kind, Message, Token};

/// Ended exchanges that are remembered, if nothing else is said.
const REMEMBERED: usize = 4096;

/// No further exchange may be opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} exchanges are open, the limit")]
pub struct Full(pub usize);

/// Where a message goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Route<'a, T> {
    /// To this exchange.
    Deliver(&'a mut T),
    /// To nobody: its exchange has ended. A confirmable one is answered with this, so that its sender stops.
    Late(Option<Kind>),
    /// To nobody: it fits no exchange.
    Noise,
}

struct Open<T> {
    peer: SocketAddr,
    id: u16,
    receiver: T,
}

/// An exchange that ended.
struct Ended {
    number: u64,
    peer: SocketAddr,
    reply: Kind,
}

/// The open exchanges. `T` is how a message is delivered to one.
pub struct Window<T> {
    open: HashMap<Token, Open<T>>,
    ids: HashMap<(SocketAddr, u16), Token>,
    ended: HashMap<Token, Ended>,
    /// The last ones that ended, by number. A token that is used again is in it more than once.
    order: VecDeque<(u64, Token)>,
    /// How many have ended.
    count: u64,
    limit: usize,
    remembered: usize,
}

impl<T> Window<T> {
    /// At most `limit` exchanges at once.
    pub fn new(limit: usize) -> Self {
        Self {
            open: HashMap::new(),
            ids: HashMap::new(),
            ended: HashMap::new(),
            order: VecDeque::new(),
            count: 0,
            limit,
            remembered: REMEMBERED,
        }
    }

    /// Remembers at most so many ended exchanges, one at least.
    #[must_use]
    pub fn remembering(self, remembered: usize) -> Self {
        Self { remembered: remembered.max(1), ..self }
    }

    /// Ended exchanges that are remembered now.
    pub fn remembered(&self) -> usize {
        self.order.len()
    }

    /// Exchanges that are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Is none open?
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Opens an exchange. One of the same token takes the place of the one before, which is being given up.
    ///
    /// # Errors
    /// When the limit is reached.
    pub fn open(&mut self, token: Token, peer: SocketAddr, id: u16, receiver: T) -> Result<(), Full> {
        if self.open.len() >= self.limit && !self.open.contains_key(&token) {
            return Err(Full(self.limit));
        }
        self.ids.insert((peer, id), token);
        self.open.insert(token, Open { peer, id, receiver });
        Ok(())
    }

    /// Ends an exchange, and no later one of its token. `answered`: a response came, so one that comes again is
    /// acknowledged, not reset.
    pub fn close(&mut self, token: Token, peer: SocketAddr, id: u16, answered: bool) {
        let key = (peer, id);
        if self.ids.get(&key) == Some(&token) {
            self.ids.remove(&key);
        }
        let is_it = |open: &Open<T>| (open.peer, open.id) == key;
        if !self.open.get(&token).is_some_and(is_it) {
            return;
        }
        self.open.remove(&token);
        if self.order.len() >= self.remembered
            && let Some((number, oldest)) = self.order.pop_front()
            // A later one of the same token is remembered on.
            && self.ended.get(&oldest).is_some_and(|ended| ended.number == number)
        {
            self.ended.remove(&oldest);
        }
        self.count += 1;
        self.order.push_back((self.count, token));
        let reply = if answered { Kind::Acknowledgement } else { Kind::Reset };
        self.ended.insert(token, Ended { number: self.count, peer, reply });
    }

    /// Where this message from `peer` goes. A token alone is not enough: it must come from where the request
    /// went to.
    pub fn route(&mut self, peer: SocketAddr, message: &Message) -> Route<'_, T> {
        let asked = self.ids.get(&(peer, message.id)).copied();
        let is_piggybacked = message.response.is_some() && message.kind == Kind::Acknowledgement;
        let token = match (&message.response, message.kind) {
            (Some(response), _) => response.token,
            (None, Kind::Acknowledgement | Kind::Reset) => match asked {
                Some(token) => token,
                None => return Route::Noise,
            },
            (None, _) => return Route::Noise,
        };
        let is_of = |open: &Open<T>| {
            open.peer == peer && (!is_piggybacked || (asked == Some(token) && open.id == message.id))
        };
        if !self.open.get(&token).is_some_and(is_of) {
            return self.late(peer, token, message.kind);
        }
        self.open.get_mut(&token).map_or(Route::Noise, |open| Route::Deliver(&mut open.receiver))
    }

    fn late(&self, peer: SocketAddr, token: Token, kind: Kind) -> Route<'_, T> {
        match self.ended.get(&token).filter(|ended| ended.peer == peer) {
            Some(ended) => Route::Late((kind == Kind::Confirmable).then_some(ended.reply)),
            None => Route::Noise,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Code, Response};
    use super::*;

    const TOKEN: Token = [7; 8];

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 20, 0, 17], port))
    }

    fn message(kind: Kind, id: u16, token: Option<Token>) -> Message {
        let response = |token| Response { token, code: Code::CONTENT, payload: Vec::new(), observe: None };
        Message { kind, id, response: token.map(response) }
    }

    fn with_one_open() -> Window<&'static str> {
        let mut window = Window::new(2);
        window.open(TOKEN, peer(5683), 1, "exchange").unwrap();
        window
    }

    #[test]
    fn answers_find_their_exchange_by_message_id_or_token() {
        let mut window = with_one_open();
        for answer in [
            message(Kind::Acknowledgement, 1, None),
            message(Kind::Reset, 1, None),
            message(Kind::Acknowledgement, 1, Some(TOKEN)),
            message(Kind::Confirmable, 900, Some(TOKEN)),
            message(Kind::NonConfirmable, 901, Some(TOKEN)),
        ] {
            assert_eq!(window.route(peer(5683), &answer), Route::Deliver(&mut "exchange"), "{answer:?}");
        }
    }

    #[test]
    fn what_comes_from_elsewhere_or_fits_nothing_is_noise() {
        let mut window = with_one_open();
        for (from, answer) in [
            (5684, message(Kind::Acknowledgement, 1, None)),
            (5684, message(Kind::Confirmable, 900, Some(TOKEN))),
            (5683, message(Kind::Acknowledgement, 2, None)),
            (5683, message(Kind::Acknowledgement, 2, Some(TOKEN))),
            (5683, message(Kind::Acknowledgement, 1, Some([8; 8]))),
            (5683, message(Kind::Confirmable, 1, None)),
        ] {
            assert_eq!(window.route(peer(from), &answer), Route::Noise, "{answer:?}");
        }
    }

    #[test]
    fn a_response_that_comes_again_is_acknowledged_and_one_given_up_on_is_reset() {
        let late = message(Kind::Confirmable, 900, Some(TOKEN));
        let mut answered = with_one_open();
        answered.close(TOKEN, peer(5683), 1, true);
        assert_eq!(answered.route(peer(5683), &late), Route::Late(Some(Kind::Acknowledgement)));
        let mut given_up = with_one_open();
        given_up.close(TOKEN, peer(5683), 1, false);
        assert_eq!(given_up.route(peer(5683), &late), Route::Late(Some(Kind::Reset)));
        let piggybacked = message(Kind::Acknowledgement, 1, Some(TOKEN));
        assert_eq!(given_up.route(peer(5683), &piggybacked), Route::Late(None));
    }

    #[test]
    fn no_more_exchanges_than_the_limit_are_open_and_closing_makes_room() {
        let mut window = Window::new(2);
        for n in 0..2 {
            window.open([n; 8], peer(5683), u16::from(n), ()).unwrap();
        }
        assert_eq!(window.open([2; 8], peer(5683), 2, ()), Err(Full(2)));
        window.close([0; 8], peer(5683), 0, true);
        assert_eq!(window.open([2; 8], peer(5683), 2, ()), Ok(()));
    }

    #[test]
    fn an_exchange_that_is_given_up_late_does_not_end_the_next_one_of_its_token() {
        let mut window = Window::new(1);
        window.open(TOKEN, peer(5683), 1, "before").unwrap();
        window.open(TOKEN, peer(5683), 2, "next").unwrap();
        let answer = |id| message(Kind::Acknowledgement, id, Some(TOKEN));
        assert_eq!(window.route(peer(5683), &answer(2)), Route::Deliver(&mut "next"));
        assert_eq!(
            window.route(peer(5683), &answer(1)),
            Route::Noise,
            "that is the answer to another question"
        );
        window.close(TOKEN, peer(5683), 1, false);
        assert_eq!(window.route(peer(5683), &answer(2)), Route::Deliver(&mut "next"));
        window.close(TOKEN, peer(5683), 2, true);
        assert!(window.is_empty() && window.ids.is_empty());
        assert_eq!(window.route(peer(5683), &answer(2)), Route::Late(None));
    }

    #[test]
    fn of_a_token_that_is_used_again_the_last_exchange_is_remembered_as_long_as_any() {
        let mut window = Window::new(1).remembering(4);
        let mut id = 0;
        let mut ends = |window: &mut Window<()>, token| {
            id += 1;
            window.open(token, peer(5683), id, ()).unwrap();
            window.close(token, peer(5683), id, true);
        };
        for token in [TOKEN, [1; 8], [2; 8], TOKEN, [3; 8], [4; 8], [5; 8]] {
            ends(&mut window, token);
        }
        let late = |token| message(Kind::Confirmable, 900, Some(token));
        let remembered = Route::Late(Some(Kind::Acknowledgement));
        assert_eq!(window.route(peer(5683), &late(TOKEN)), remembered, "it is one of the last four");
        assert_eq!(window.route(peer(5683), &late([2; 8])), Route::Noise);
        ends(&mut window, [6; 8]);
        assert_eq!(window.route(peer(5683), &late(TOKEN)), Route::Noise);
        assert_eq!((window.ended.len(), window.remembered()), (4, 4));
    }

    #[test]
    fn what_is_remembered_of_ended_exchanges_is_bounded() {
        let mut window = Window::new(1);
        for n in 0..10_000_u64 {
            window.open(n.to_be_bytes(), peer(5683), 1, ()).unwrap();
            window.close(n.to_be_bytes(), peer(5683), 1, true);
        }
        assert_eq!(window.ended.len(), REMEMBERED);
        assert_eq!(window.order.len(), REMEMBERED);
        assert!(window.is_empty() && window.ids.is_empty());
    }
}
