//! Every message survives its trip, and nothing that is not a message gets through.

use std::collections::BTreeMap;

use edge_protocol::{
    BootId, CommandId, ConfigDigest, DecodeError, DesiredCommand, EncodeError, Envelope, Held, Install,
    MAX_PAYLOAD, OwnerChange, OwnerCommand, Refusal, RefusalReason, Report, config_digest,
    config_encoded_len, decode, encode,
};
use proptest::prelude::*;

fn config() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[a-z-]{1,12}", "\\PC{0,6}", 0..16)
}

prop_compose! {
    fn command()(
        namespace in "[a-z]{1,20}", name in "[a-z0-9-]{1,30}", uid in "[0-9a-f-]{1,36}",
        generation: u64, epoch: u64, id: u64, firmware in "[0-9.]{1,12}", config in config(),
    ) -> DesiredCommand {
        DesiredCommand { namespace, name, uid, generation, epoch, command_id: CommandId(id), firmware, config }
    }
}

fn install() -> impl Strategy<Value = Install> {
    prop_oneof![
        Just(Install::Idle),
        (0..=100u8).prop_map(|percent| Install::Running { percent }),
        any::<u32>().prop_map(|attempts| Install::Failed { attempts }),
    ]
}

prop_compose! {
    fn report()(
        namespace in "[a-z]{1,20}", name in "[a-z0-9-]{1,30}", uid in prop::option::of("[0-9a-f-]{1,36}"),
        firmware in "[0-9.]{0,12}", config in config(), numbers: [u64; 6], id: Option<u64>,
        install in install(), last_error in prop::option::of("\\PC{0,40}"),
    ) -> Report {
        let [applied_generation, held_generation, epoch, boot, sequence, uptime_ms] = numbers;
        Report {
            namespace, name, uid, firmware, config_digest: config_digest(&config), applied_generation,
            held_generation, epoch, command_id: id.map(CommandId), boot_id: BootId(boot), sequence,
            uptime_ms, install, last_error,
        }
    }
}

fn reason() -> impl Strategy<Value = RefusalReason> {
    prop::sample::select(vec![
        RefusalReason::LowerGeneration,
        RefusalReason::LowerEpoch,
        RefusalReason::WrongName,
        RefusalReason::ForeignUid,
        RefusalReason::Released,
        RefusalReason::Unsupported,
    ])
}

prop_compose! {
    fn refusal()(
        reason in reason(), namespace in "[a-z]{1,20}", name in "[a-z0-9-]{1,30}",
        uid in prop::option::of("[0-9a-f-]{1,36}"), numbers: [u64; 4], detail in prop::option::of("\\PC{0,40}"),
    ) -> Refusal {
        let [held_generation, epoch, boot, sequence] = numbers;
        Refusal { reason, namespace, name, uid, held_generation, epoch, boot_id: BootId(boot), sequence, detail }
    }
}

prop_compose! {
    fn owner_command()(
        namespace in "[a-z]{1,20}", name in "[a-z0-9-]{1,30}", uid in "[0-9a-f-]{1,36}", epoch: u64,
        from in prop::option::of(("[0-9a-f-]{1,36}", any::<u64>())),
    ) -> OwnerCommand {
        let adopt = |(uid, epoch)| OwnerChange::Adopt(Held { uid, epoch });
        OwnerCommand { namespace, name, uid, epoch, change: from.map_or(OwnerChange::Release, adopt) }
    }
}

proptest! {
    #[test]
    fn a_release_and_an_adoption_survive_their_trip(message in owner_command()) {
        prop_assert_eq!(decode::<OwnerCommand>(&encode(&message).unwrap()).unwrap(), message);
    }

    #[test]
    fn a_command_survives_its_trip(message in command()) {
        let bytes = encode(&message).unwrap();
        prop_assert!(bytes.len() <= MAX_PAYLOAD);
        prop_assert_eq!(decode::<DesiredCommand>(&bytes).unwrap(), message);
    }

    #[test]
    fn a_report_survives_its_trip(message in report()) {
        prop_assert_eq!(decode::<Report>(&encode(&message).unwrap()).unwrap(), message);
    }

    #[test]
    fn a_refusal_survives_its_trip(message in refusal()) {
        prop_assert_eq!(decode::<Refusal>(&encode(&message).unwrap()).unwrap(), message);
    }

    #[test]
    fn the_encoded_length_of_a_configuration_is_what_the_encoder_writes(config in config()) {
        let mut bytes = Vec::new();
        ciborium::into_writer(&config, &mut bytes).unwrap();
        prop_assert_eq!(config_encoded_len(&config), bytes.len());
    }

    #[test]
    fn a_message_with_one_byte_changed_is_decoded_within_its_limits_or_refused(
        message in report(), at: prop::sample::Index, byte: u8,
    ) {
        let mut bytes = encode(&message).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(changed) = decode::<Report>(&bytes) {
            prop_assert!(encode(&changed).is_ok());
        }
    }

    #[test]
    fn a_message_that_was_cut_short_is_refused(message in command(), keep: prop::sample::Index) {
        let bytes = encode(&message).unwrap();
        let keep = keep.index(bytes.len());
        prop_assert!(decode::<DesiredCommand>(&bytes[..keep]).is_err());
    }
}

fn a_command() -> DesiredCommand {
    DesiredCommand {
        namespace: "edge".into(),
        name: "pump-0017".into(),
        uid: "0b5ee8a9-53a8-4d3c-9d0f-2f6ed1f6a111".into(),
        generation: 4,
        epoch: 1200,
        command_id: CommandId(7),
        firmware: "2.4.1".into(),
        config: BTreeMap::from([("sampling-interval".into(), "5s".into())]),
    }
}

/// The configuration with the most bytes that the limit lets through.
fn the_longest_config() -> BTreeMap<String, String> {
    let config = BTreeMap::from([("k".into(), "v".repeat(894))]);
    assert_eq!(config_encoded_len(&config), edge_protocol::MAX_CONFIG);
    config
}

#[test]
fn the_longest_configuration_fits_into_a_command_for_an_ordinary_name() {
    let command = DesiredCommand { config: the_longest_config(), ..a_command() };
    assert!(encode(&command).unwrap().len() <= MAX_PAYLOAD);
}

#[test]
fn a_command_that_is_too_long_as_a_whole_says_how_long_it_is() {
    let command = DesiredCommand { config: the_longest_config(), name: "n".repeat(253), ..a_command() };
    let error = encode(&command).unwrap_err();
    assert!(matches!(error, EncodeError::TooLong { actual: 1025.. }), "{error}");
}

#[test]
fn each_limit_is_named_when_it_is_exceeded() {
    let too_many = (0..33).map(|n| (n.to_string(), String::new())).collect();
    let longer = BTreeMap::from([("k".into(), "v".repeat(895))]);
    let bad = [
        ("namespace", DesiredCommand { namespace: "n".repeat(64), ..a_command() }),
        ("name", DesiredCommand { name: String::new(), ..a_command() }),
        ("uid", DesiredCommand { uid: "u".repeat(65), ..a_command() }),
        ("firmware", DesiredCommand { firmware: String::new(), ..a_command() }),
        ("config", DesiredCommand { config: too_many, ..a_command() }),
        ("config", DesiredCommand { config: longer, ..a_command() }),
    ];
    for (field, command) in bad {
        let error = encode(&command).unwrap_err();
        assert!(matches!(&error, EncodeError::Limit(limit) if limit.field == field), "{field}: {error}");
    }
}

#[test]
fn the_wire_format_is_what_devices_in_the_field_speak() {
    // [1, bytes of a map of eight]: a change of this test is a change of the protocol.
    let bytes = encode(&a_command()).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "82015867a861736465646765616e6970756d702d303031376175782430623565653861392d353361382d346433632d39\
         6430662d32663665643166366131313161670461651904b061630761666\
         5322e342e31616ba17173616d706c696e672d696e74657276616c623573"
    );
}

#[test]
fn an_envelope_with_a_mac_carries_the_same_message() {
    let bytes = encode(&a_command()).unwrap();
    let mut envelope = Envelope::from_bytes(&bytes).unwrap();
    assert_eq!(envelope.mac, None);
    envelope.mac = Some(vec![0xab; 60]);
    let signed = envelope.to_bytes().unwrap();
    assert_eq!(Envelope::from_bytes(&signed).unwrap(), envelope);
    assert_eq!(decode::<DesiredCommand>(&signed).unwrap(), a_command());
}

#[test]
fn an_unknown_key_of_a_newer_peer_is_ignored() {
    let mut map = ciborium::Value::serialized(&a_command()).unwrap();
    map.as_map_mut().unwrap().push((ciborium::Value::from("new"), ciborium::Value::from(vec![1, 2, 3])));
    assert_eq!(decode::<DesiredCommand>(&enveloped(&map)).unwrap(), a_command());
}

#[test]
fn what_is_no_message_is_refused_with_what_is_wrong_with_it() {
    let good = encode(&a_command()).unwrap();
    let trailing = [good.as_slice(), &[0]].concat();
    let report_instead = enveloped(&ciborium::Value::Map(vec![]));
    let mut too_long_name = ciborium::Value::serialized(&a_command()).unwrap();
    too_long_name.as_map_mut().unwrap()[1].1 = ciborium::Value::from("n".repeat(300));
    let cases: [(&str, &[u8]); 9] = [
        ("Syntax", &[]),
        ("Shape", &[0xff]),
        ("Syntax", &[0x82, 0x01, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), // 2^64−1 bytes to come
        ("Shape", &[0x01]),
        ("Shape", &[0x81; 500]), // arrays in arrays
        ("Version", &[0x82, 0x02, 0x40]),
        ("Trailing", &trailing),
        ("Shape", &report_instead),
        ("Limit", &enveloped(&too_long_name)),
    ];
    for (kind, bytes) in cases {
        let error = decode::<DesiredCommand>(bytes).unwrap_err();
        assert!(format!("{error:?}").starts_with(kind), "{bytes:02x?}: {error:?} is no {kind}");
    }
    let error = decode::<Report>(&vec![0; MAX_PAYLOAD + 1]).unwrap_err();
    assert_eq!(error, DecodeError::TooLong { actual: MAX_PAYLOAD + 1 });
}

#[expect(clippy::unwrap_used, reason = "a helper of tests; writing to a Vec cannot fail")]
fn enveloped(value: &ciborium::Value) -> Vec<u8> {
    let mut payload = Vec::new();
    ciborium::into_writer(value, &mut payload).unwrap();
    Envelope::plain(payload).to_bytes().unwrap()
}

#[test]
fn digests_tell_configurations_apart_and_are_read_back() {
    let empty = config_digest(&BTreeMap::new());
    assert_eq!(empty.to_string(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    let one = config_digest(&BTreeMap::from([("ab".into(), "c".into())]));
    let other = config_digest(&BTreeMap::from([("a".into(), "bc".into())]));
    assert_ne!(one, other);
    assert_eq!(one.to_string().parse::<ConfigDigest>().unwrap(), one);
    for bad in ["", "sha256:", "sha1:00", &one.to_string().to_uppercase(), &one.to_string()[..70]] {
        assert!(bad.parse::<ConfigDigest>().is_err(), "{bad}");
    }
}
