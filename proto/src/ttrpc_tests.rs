//! Framing against bytes written by hand, and properties over arbitrary frames and arbitrary garbage.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    stream: u32,
    kind: Kind,
    flags: Flags,
    payload: Vec<u8>,
}

fn drain(decoder: &mut Decoder) -> Vec<Result<Owned, Error>> {
    let mut found = Vec::new();
    loop {
        match decoder.next_frame() {
            Ok(Some(f)) => {
                found.push(Ok(Owned {
                    stream: f.stream,
                    kind: f.kind,
                    flags: f.flags,
                    payload: f.payload.to_vec(),
                }));
            }
            Ok(None) => return found,
            Err(error) => found.push(Err(error)),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct KeyValueBytes {
    #[prost(bytes = "vec", tag = "19")]
    value: Vec<u8>,
}

#[test]
fn a_request_has_the_bytes_that_the_protocol_says() {
    let mut out = Vec::new();
    encode_request(&mut out, 1, Target::new("s", "m", Call::Unary), &()).unwrap();
    assert_eq!(out, [0, 0, 0, 6, 0, 0, 0, 1, 1, 0, 0x0a, 1, b's', 0x12, 1, b'm']);
}

#[test]
fn the_end_of_a_stream_has_no_data() {
    let mut out = Vec::new();
    encode_end(&mut out, 3);
    assert_eq!(out, [0, 0, 0, 0, 0, 0, 0, 3, 3, 5]);
}

#[test]
fn an_error_comes_back_with_code_and_text() {
    let mut out = Vec::new();
    encode_error(&mut out, 5, Code::NotFound, "no such process");
    let mut decoder = Decoder::new();
    decoder.feed(&out);
    let frame = decoder.next_frame().unwrap().unwrap();
    let response: Response = frame.decode("Response").unwrap();
    let error = response.into_result().unwrap_err();
    assert_eq!(error, CallError { code: Code::NotFound, message: "no such process".to_owned() });
}

#[test]
fn an_error_text_over_the_limit_is_cut_between_characters() {
    let mut out = Vec::new();
    encode_error(&mut out, 1, Code::Internal, &format!("x{}", "ä".repeat(MAX_PAYLOAD)));
    assert!(out.len() <= HEADER_LENGTH + MAX_PAYLOAD);
    let mut decoder = Decoder::new();
    decoder.feed(&out);
    assert!(decoder.next_frame().unwrap().unwrap().decode::<Response>("Response").is_ok());
}

#[test]
fn a_payload_at_the_limit_passes_and_one_byte_more_is_refused() {
    let mut out = Vec::new();
    encode_raw(&mut out, 1, Kind::Data, Flags::NONE, &vec![7; MAX_PAYLOAD]).unwrap();
    let mut decoder = Decoder::new();
    decoder.feed(&out);
    assert_eq!(decoder.next_frame().unwrap().unwrap().payload.len(), MAX_PAYLOAD);
    let error = encode_raw(&mut out, 1, Kind::Data, Flags::NONE, &vec![7; MAX_PAYLOAD + 1]).unwrap_err();
    assert_eq!(error, Error::TooLong { stream: 1, length: MAX_PAYLOAD + 1 });
    assert_eq!(out.len(), HEADER_LENGTH + MAX_PAYLOAD);
}

#[test]
fn a_refused_frame_costs_only_itself() {
    let length = MAX_PAYLOAD + 5;
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 9, 1, 0]);
    bytes.extend(std::iter::repeat_n(0xff, length));
    encode_raw(&mut bytes, 11, Kind::Data, Flags::NONE, b"after").unwrap();
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    for chunk in bytes.chunks(4096) {
        decoder.feed(chunk);
        found.extend(drain(&mut decoder));
        assert!(decoder.buffer.capacity() < 3 * RESERVE_AT_ONCE, "a refused frame is not buffered");
    }
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], Err(Error::TooLong { stream: 9, length }));
    assert_eq!(found[1].as_ref().unwrap().payload, b"after");
}

#[test]
fn an_unknown_kind_is_skipped_with_its_payload() {
    let mut decoder = Decoder::new();
    decoder.feed(&[0, 0, 0, 2, 0, 0, 0, 1, 99, 0, 1]);
    assert_eq!(decoder.next_frame(), Err(Error::UnknownKind { stream: 1, kind: 99 }));
    assert!(decoder.is_inside_frame());
    decoder.feed(&[2]);
    assert!(!decoder.is_inside_frame());
    assert_eq!(decoder.next_frame(), Ok(None));
}

#[test]
fn a_big_buffer_is_given_back() {
    let mut out = Vec::new();
    encode_raw(&mut out, 1, Kind::Data, Flags::NONE, &vec![0; 1 << 20]).unwrap();
    let mut decoder = Decoder::new();
    decoder.feed(&out);
    drain(&mut decoder);
    assert_eq!(decoder.buffer.capacity(), 0);
}

#[test]
fn a_length_that_lies_reserves_little() {
    let mut decoder = Decoder::new();
    let [a, b, c, d] = u32::try_from(MAX_PAYLOAD).unwrap().to_be_bytes();
    decoder.feed(&[a, b, c, d, 0, 0, 0, 1, 1, 0]);
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.buffer.capacity() <= 2 * RESERVE_AT_ONCE);
}

#[test]
fn stream_numbers_are_odd_and_rise() {
    let mut client = ClientStreams::default();
    assert_eq!((client.open(), client.open(), client.open()), (Ok(1), Ok(3), Ok(5)));
    client.last = u32::MAX;
    assert_eq!(client.open(), Err(Error::StreamsExhausted));
    let mut server = ServerStreams::default();
    assert_eq!(server.accept(1), Ok(()));
    assert_eq!(server.accept(7), Ok(()));
    for bad in [0, 2, 7, 5, 8] {
        assert_eq!(server.accept(bad), Err(Error::BadStream { stream: bad, last: 7 }));
    }
}

#[test]
fn headers_are_found_without_case() {
    let request = Request {
        metadata: vec![KeyValue { key: "Containerd-Namespace-Ttrpc".into(), value: "k8s.io".into() }],
        ..Request::default()
    };
    assert_eq!(request.header("containerd-namespace-ttrpc"), Some("k8s.io"));
    assert_eq!(request.header("other"), None);
}

fn frames() -> impl Strategy<Value = Vec<Owned>> {
    let kind = prop_oneof![Just(Kind::Request), Just(Kind::Response), Just(Kind::Data)];
    let frame = (any::<u32>(), kind, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..300));
    let frame =
        frame.prop_map(|(stream, kind, flags, payload)| Owned { stream, kind, flags: Flags(flags), payload });
    proptest::collection::vec(frame, 0..12)
}

proptest! {
    #[test]
    fn frames_survive_any_cutting(frames in frames(), cuts in proptest::collection::vec(1usize..70, 1..40)) {
        let mut bytes = Vec::new();
        for f in &frames {
            encode_raw(&mut bytes, f.stream, f.kind, f.flags, &f.payload).unwrap();
        }
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            decoder.feed(now);
            found.extend(drain(&mut decoder));
            rest = later;
        }
        prop_assert!(!decoder.is_inside_frame());
        prop_assert_eq!(found.into_iter().collect::<Result<Vec<_>, _>>().unwrap(), frames);
    }

    #[test]
    fn garbage_never_panics_and_is_never_hoarded(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..30)) {
        let mut decoder = Decoder::new();
        for chunk in &chunks {
            decoder.feed(chunk);
            for frame in drain(&mut decoder).into_iter().flatten() {
                let _ = decode::<Request>(&frame.payload, "Request");
                let _ = decode::<Response>(&frame.payload, "Response");
            }
        }
        prop_assert!(decoder.buffer.len() <= HEADER_LENGTH + MAX_PAYLOAD);
    }

    #[test]
    fn a_bytes_field_is_what_prost_would_write(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let message = KeyValueBytes { value: bytes.clone() };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        encode_bytes_field(&mut ours, 3, 19, &bytes).unwrap();
        encode_data(&mut theirs, 3, &message).unwrap();
        if !bytes.is_empty() {
            prop_assert_eq!(&ours, &theirs);
        }
    }

    #[test]
    fn requests_come_back_as_they_were(service in ".{0,40}", method in ".{0,20}", payload in ".{0,200}", nanos in 0u32..u32::MAX) {
        let target = Target {
            timeout: Some(Duration::from_nanos(nanos.into())),
            metadata: &[("k", "v")],
            ..Target::new(&service, &method, Call::ServerStream)
        };
        let mut out = Vec::new();
        encode_request(&mut out, 1, target, &payload).unwrap();
        let mut decoder = Decoder::new();
        decoder.feed(&out);
        let frame = decoder.next_frame().unwrap().unwrap();
        prop_assert_eq!(frame.flags, Flags::REMOTE_CLOSED);
        let request: Request = frame.decode("Request").unwrap();
        prop_assert_eq!((request.service, request.method, request.timeout_nano), (service, method, i64::from(nanos)));
        prop_assert_eq!(decode::<String>(&request.payload, "String").unwrap(), payload);
    }
}
