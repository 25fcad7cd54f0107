//! Single rules of the election, told as small stories. The simulation beside this file shows that they suffice.

use std::time::Duration;

use super::*;

const WALL: Timestamp = Timestamp::UNIX_EPOCH;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn elector(holder: &str) -> Elector {
    Elector::new(Settings {
        holder: holder.into(),
        duration: seconds(15),
        renew_deadline: seconds(10),
        retry_period: seconds(2),
    })
}

fn held(version: u64, holder: &str) -> Sight {
    Sight { version, record: Some(Record::taken(None, holder, seconds(15), WALL)) }
}

fn write_of(action: Action) -> Write {
    match action {
        Action::Write(write) => write,
        other => panic!("no write but {other:?}"),
    }
}

/// `a` at the moment when it began to lead, with epoch 8.
fn leader(start: Instant) -> Elector {
    let mut elector = elector("a");
    elector.read(Sight { version: 7, record: Some(Record::default()) }, start);
    let take = write_of(elector.next(start, WALL));
    assert_eq!((take.on, take.purpose), (Some(7), Purpose::Take));
    elector.wrote(&take, start, Outcome::Landed(8), start, 0.0);
    elector
}

#[test]
fn a_lease_that_somebody_holds_is_free_when_it_was_not_seen_to_change_for_its_duration() {
    let (mut elector, start) = (elector("a"), Instant::now());
    assert_eq!(elector.next(start, WALL), Action::Read);
    elector.read(held(5, "b"), start);
    assert_eq!(elector.next(start, WALL), Action::Wait(start + seconds(15)));
    elector.news(held(6, "b"), start + seconds(10));
    elector.news(held(5, "b"), start + seconds(12));
    let free = start + seconds(25);
    assert_eq!(elector.next(start + seconds(15), WALL), Action::Wait(free), "older news is no change");
    let take = write_of(elector.next(free, WALL));
    assert_eq!((take.on, take.record.holder.as_str(), take.record.transitions), (Some(6), "a", 1));
    assert_eq!(take.within, seconds(5));
}

#[test]
fn the_holder_says_for_how_long() {
    let (mut elector, start) = (elector("a"), Instant::now());
    let record = Record::taken(None, "b", seconds(60), WALL);
    elector.read(Sight { version: 5, record: Some(record) }, start);
    assert_eq!(elector.next(start, WALL), Action::Wait(start + seconds(60)));
}

#[test]
fn to_make_a_lease_that_is_not_there_makes_no_leader_before_a_duration_is_over() {
    let (mut elector, start) = (elector("a"), Instant::now());
    let absent = |version| Sight { version, record: None };
    elector.read(absent(40), start);
    let claim_at = start + seconds(4);
    assert_eq!(elector.next(start, WALL), Action::Wait(claim_at), "a leader that lives is faster");
    elector.read(absent(50), start + seconds(3));
    let claim = write_of(elector.next(claim_at, WALL));
    assert_eq!((claim.on, claim.purpose, claim.record.transitions), (None, Purpose::Claim, 0));
    elector.wrote(&claim, claim_at, Outcome::Landed(51), claim_at + seconds(1), 0.0);
    assert_eq!(elector.term(), None);
    let free = claim_at + seconds(16);
    assert_eq!(elector.next(claim_at + seconds(1), WALL), Action::Wait(free));
    let take = write_of(elector.next(free, WALL));
    assert_eq!((take.on, take.purpose, take.record.transitions), (Some(51), Purpose::Take, 0));
    elector.wrote(&take, free, Outcome::Landed(52), free, 0.0);
    assert_eq!(elector.term(), Some(Term { epoch: 52, until: free + seconds(10) }));
}

#[test]
fn a_right_begins_when_the_write_was_sent_and_ends_a_renew_deadline_later() {
    let start = Instant::now();
    let mut elector = leader(start);
    let term = Term { epoch: 8, until: start + seconds(10) };
    assert_eq!(elector.term(), Some(term));
    assert_eq!(elector.next(start, WALL), Action::Wait(start + seconds(2)));
    let sent = start + seconds(2);
    let renew = write_of(elector.next(sent, WALL));
    assert_eq!((renew.on, renew.purpose), (Some(8), Purpose::Renew));
    elector.wrote(&renew, sent, Outcome::Landed(9), sent + seconds(3), 0.0);
    assert_eq!(elector.term(), Some(Term { until: sent + seconds(10), ..term }), "the epoch stays");
    assert_eq!(elector.next(sent + seconds(10), WALL), Action::Lose(Loss::Expired));
}

#[test]
fn a_leader_without_an_answer_reads_before_it_writes_again_and_no_call_outlives_its_right() {
    let start = Instant::now();
    let mut elector = leader(start);
    let sent = start + seconds(9);
    let renew = write_of(elector.next(sent, WALL));
    assert_eq!(renew.within, seconds(1));
    elector.wrote(&renew, sent, Outcome::Unknown, sent, 1.0);
    let end = start + seconds(10);
    assert_eq!(elector.next(sent, WALL), Action::Wait(end), "as long as its right at most");
    assert_eq!(elector.next(end, WALL), Action::Lose(Loss::Expired));

    let mut elector = leader(start);
    elector.wrote(&renew, start, Outcome::Unknown, start + seconds(5), 1.0);
    assert_eq!(elector.next(start + seconds(5), WALL), Action::Read, "no pause after a call that hung");
    // It had landed after all.
    elector.read(held(9, "a"), start + seconds(5));
    assert_eq!(write_of(elector.next(start + seconds(5), WALL)).on, Some(9));
}

#[test]
fn a_leader_that_meets_a_conflict_reads_at_once_and_loses_to_another_holder() {
    let start = Instant::now();
    for (by, holder) in [("b", "b"), ("", "")] {
        let mut elector = leader(start);
        let renew = write_of(elector.next(start + seconds(2), WALL));
        elector.wrote(&renew, start + seconds(2), Outcome::Conflict, start + seconds(2), 0.0);
        assert_eq!(elector.next(start + seconds(2), WALL), Action::Read);
        elector.read(held(9, holder), start + seconds(2));
        assert_eq!(
            elector.next(start + seconds(2), WALL),
            Action::Lose(Loss::Displaced { by: by.to_owned() })
        );
    }
}

#[test]
fn a_leader_whose_lease_was_deleted_makes_it_again_and_keeps_its_epoch() {
    let start = Instant::now();
    let mut elector = leader(start);
    let sent = start + seconds(2);
    elector.read(Sight { version: 30, record: None }, sent);
    let renew = write_of(elector.next(sent, WALL));
    assert_eq!((renew.on, renew.purpose, renew.record.holder.as_str()), (None, Purpose::Renew, "a"));
    elector.wrote(&renew, sent, Outcome::Landed(31), sent, 0.0);
    assert_eq!(elector.term().map(|term| term.epoch), Some(8));
}

#[test]
fn who_does_not_know_that_it_took_the_lease_waits_as_for_anybody_elses() {
    let (mut elector, start) = (elector("a"), Instant::now());
    elector.read(Sight { version: 7, record: Some(Record::default()) }, start);
    let take = write_of(elector.next(start, WALL));
    elector.wrote(&take, start, Outcome::Unknown, start + seconds(5), 0.0);
    assert_eq!(elector.term(), None);
    let later = start + seconds(6);
    assert_eq!(elector.next(later, WALL), Action::Read);
    elector.read(held(8, "a"), later);
    assert_eq!(elector.next(later, WALL), Action::Wait(later + seconds(15)));
    let later = later + seconds(15);
    let again = write_of(elector.next(later, WALL));
    assert_eq!((again.on, again.record.transitions), (Some(8), 0));
    elector.wrote(&again, later, Outcome::Landed(9), later, 0.0);
    assert_eq!(elector.term(), Some(Term { epoch: 9, until: later + seconds(10) }));
}

#[test]
fn an_answer_that_comes_too_late_is_none() {
    let (mut elector, start) = (elector("a"), Instant::now());
    elector.read(Sight { version: 7, record: Some(Record::default()) }, start);
    let take = write_of(elector.next(start, WALL));
    let woken = start + take.within;
    elector.wrote(&take, start, Outcome::Landed(8), woken, 0.0);
    assert_eq!((elector.term(), elector.next(woken, WALL)), (None, Action::Read));
}

#[test]
fn who_leaves_gives_away_what_it_holds_and_only_that() {
    let start = Instant::now();
    let mut elector_ = leader(start);
    elector_.leave(start);
    assert_eq!(elector_.term(), None);
    let release = write_of(elector_.next(start, WALL));
    assert_eq!(
        (release.on, release.purpose, release.record.holder.as_str()),
        (Some(8), Purpose::Release, "")
    );
    elector_.wrote(&release, start, Outcome::Conflict, start, 0.0);
    assert_eq!(elector_.next(start, WALL), Action::Read);
    elector_.read(held(9, "a"), start);
    let release = write_of(elector_.next(start, WALL));
    elector_.wrote(&release, start, Outcome::Landed(10), start, 0.0);
    assert_eq!(elector_.next(start, WALL), Action::Leave);

    // A write that was under way makes no leader of who leaves, and is given away too.
    let mut late = elector("a");
    late.read(Sight { version: 7, record: Some(Record::default()) }, start);
    let take = write_of(late.next(start, WALL));
    late.leave(start);
    late.wrote(&take, start, Outcome::Landed(8), start, 0.0);
    assert_eq!(late.term(), None);
    assert_eq!(write_of(late.next(start, WALL)).purpose, Purpose::Release);

    // A claim is not given away: who led before the Lease was deleted may not know yet.
    let nothing = Sight { version: 7, record: None };
    for outcome in [Outcome::Landed(8), Outcome::Unknown] {
        let mut claimant = elector("a");
        claimant.read(nothing.clone(), start);
        let later = start + seconds(4);
        let claim = write_of(claimant.next(later, WALL));
        assert_eq!(claim.purpose, Purpose::Claim);
        claimant.wrote(&claim, later, outcome, later, 0.0);
        claimant.leave(later);
        claimant.read(held(8, "a"), later);
        assert_eq!(claimant.next(later, WALL), Action::Leave, "{outcome:?}");
    }

    let mut standby = elector("c");
    standby.read(held(5, "b"), start);
    standby.leave(start);
    assert_eq!(standby.next(start, WALL), Action::Leave);
}

#[test]
fn who_cannot_give_away_what_it_holds_ends_all_the_same() {
    let start = Instant::now();
    let mut elector = leader(start);
    elector.leave(start);
    let release = write_of(elector.next(start, WALL));
    elector.wrote(&release, start, Outcome::Unknown, start + seconds(4), 0.0);
    assert_eq!(elector.next(start + seconds(5), WALL), Action::Leave);
}

#[test]
fn what_failed_is_tried_again_after_half_a_retry_period_to_a_whole_one() {
    let start = Instant::now();
    for (draw, pause) in [(0.0, 1000), (1.0, 2000)] {
        let mut elector = elector("a");
        elector.doubt(start, draw);
        assert_eq!(elector.next(start, WALL), Action::Wait(start + Duration::from_millis(pause)));
    }
}
