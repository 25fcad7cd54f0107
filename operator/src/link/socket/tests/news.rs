//! What devices tell by themselves.

use super::*;

#[tokio::test]
async fn notifications_are_handed_over_in_order_and_those_that_nobody_asked_for_are_reset() {
    let (link, mut heard, usage, datagrams) = observing();
    let peer = SocketAddr::from(([10, 20, 0, 17], 5683));
    let token = link.observations(|all| all.token(&subject(), peer, [5; 8])).flatten().unwrap();
    assert_eq!(usage.get(), 1);
    let non = |sequence, payload| notification(token, MessageType::NonConfirmable, sequence, payload);
    assert_eq!(link.received(peer, &non(4, 1)), None);
    assert_eq!(link.received(peer, &non(3, 2)), None, "it was overtaken");
    let confirmable = notification(token, MessageType::Confirmable, 5, 3);
    assert_eq!(link.received(peer, &confirmable), Some(wire::empty(Kind::Acknowledgement, 77)));
    let payloads = [heard.try_recv().unwrap(), heard.try_recv().unwrap()].map(|news| news.payload);
    assert_eq!(payloads, [vec![1], vec![3]]);

    let stranger = notification([9; 8], MessageType::NonConfirmable, 6, 4);
    assert_eq!(link.received(peer, &stranger), Some(wire::empty(Kind::Reset, 77)));
    let elsewhere = SocketAddr::from(([10, 20, 0, 18], 5683));
    assert_eq!(link.received(elsewhere, &non(7, 5)), Some(wire::empty(Kind::Reset, 77)));
    link.forget(&subject());
    assert_eq!(link.received(peer, &non(8, 6)), Some(wire::empty(Kind::Reset, 77)));
    assert!(heard.try_recv().is_err());
    let count = |result: &str| datagrams.with_label_values(&[result]).get();
    assert_eq!((count("notified"), count("reordered"), count("noise"), usage.get()), (2, 1, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_counts_anew_answers_a_question_by_a_message_of_its_own() {
    for kind in [MessageType::Confirmable, MessageType::NonConfirmable] {
        let (link, mut heard, _, datagrams) = observing();
        let peer = SocketAddr::from(([10, 20, 0, 17], 5683));
        let token = link.observations(|all| all.token(&subject(), peer, [5; 8])).flatten().unwrap();
        link.received(peer, &notification(token, MessageType::NonConfirmable, 900, 1));
        heard.try_recv().unwrap();
        let request = Request {
            peer,
            method: Method::Get,
            path: "state",
            payload: Vec::new(),
            id: 42,
            observe: Some(subject()),
            given_up_after: None,
        };
        let counters = counters();
        let exchange = link.exchange(request, [6; 8], 0.0, &counters);
        // It has the same token, by which the device knows that it is observed already.
        let device = async { link.received(peer, &notification(token, kind, 1, 2)) };
        let (end, reply) = tokio::join!(exchange, device);
        assert_eq!((end, reply), (End::Notified(vec![2]), None), "{kind:?}");
        assert_eq!(datagrams.with_label_values(&["reordered"]).get(), 0);
        // And what comes next is newer than that.
        link.received(peer, &notification(token, kind, 2, 3));
        assert_eq!(heard.try_recv().unwrap().payload, vec![3]);
    }
}

#[tokio::test]
async fn news_that_nobody_takes_in_time_are_dropped_and_counted() {
    let (link, mut heard, _, datagrams) = observing();
    let peer = SocketAddr::from(([10, 20, 0, 17], 5683));
    let token = link.observations(|all| all.token(&subject(), peer, [5; 8])).flatten().unwrap();
    for sequence in 1..=5 {
        link.received(peer, &notification(token, MessageType::NonConfirmable, sequence, 0));
    }
    let count = |result: &str| datagrams.with_label_values(&[result]).get();
    assert_eq!((count("notified"), count("overrun")), (2, 3));
    assert!(heard.recv().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_a_device_tells_beyond_its_share_takes_no_room_of_others_news_and_is_acknowledged() {
    let (link, mut heard, _, datagrams) = observing();
    let peers = [17, 18].map(|last| SocketAddr::from(([10, 20, 0, last], 5683)));
    let other = Subject { name: "other".into(), ..subject() };
    let floods = link.observations(|all| all.token(&subject(), peers[0], [5; 8])).flatten().unwrap();
    let tells = link.observations(|all| all.token(&other, peers[1], [6; 8])).flatten().unwrap();
    for sequence in 1..=50 {
        let reply = link.received(peers[0], &notification(floods, MessageType::Confirmable, sequence, 1));
        assert_eq!(reply, Some(wire::empty(Kind::Acknowledgement, 77)));
        while heard.try_recv().is_ok() {}
    }
    let count = |result: &str| datagrams.with_label_values(&[result]).get();
    assert_eq!((count("notified"), count("unheeded")), (5, 45));
    // Somebody is slow to hear, and the news of the one that floods are not in the way.
    for sequence in 51..=100 {
        link.received(peers[0], &notification(floods, MessageType::NonConfirmable, sequence, 1));
    }
    link.received(peers[1], &notification(tells, MessageType::NonConfirmable, 1, 2));
    assert_eq!(heard.try_recv().unwrap().payload, vec![2]);
    assert_eq!((count("unheeded"), count("overrun")), (95, 0));
}

#[tokio::test]
async fn above_the_limit_a_device_is_asked_without_being_observed() {
    let (link, _heard, usage, _) = observing();
    let peer = SocketAddr::from(([10, 20, 0, 17], 5683));
    let named = |name: &str| Subject { name: name.into(), ..subject() };
    let tokens =
        ["a", "b", "c"].map(|name| link.observations(|all| all.token(&named(name), peer, rand::random())));
    assert_eq!(tokens.map(|token| token.flatten().is_some()), [true, true, false]);
    assert_eq!(usage.get(), 2);
}
