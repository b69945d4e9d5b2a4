//! Small files that stand for huge ones, and huge ones: refused before they take memory, with the bound to raise.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use delayd_core::ports::ObjectStore;
use delayd_data::contract::Contract;
use delayd_data::formats::{ParseLimits, ParsedObject, parse_flights};
use delayd_data::holidays::{parse_events_csv, parse_icalendar};
use delayd_data::ingest::{IngestOptions, Ingested, KnownObject, ingest_new};
use delayd_data::{DataError, ObjectReader, TimeZones};

use crate::data_stage::crafted_parquet::Crafted;
use crate::data_stage::support::{MemoryStore, airports, utc};

const HEADER: &str = "carrier,flight_number,origin,dest,scheduled_departure,scheduled_arrival,distance_miles,departed_at,arrived_at,arrival_delay_minutes,cancelled,diverted\n";
const ROW: &str = "UA,1545,EWR,IAH,2013-01-01T10:15:00Z,2013-01-01T14:19:00Z,1400,2013-01-01T10:17:00Z,2013-01-01T14:30:00Z,11,false,false\n";

fn read(key: &str, body: impl Into<Bytes>, limits: &ParseLimits) -> Result<ParsedObject, DataError> {
    parse_flights(key, &body.into(), &TimeZones::of(&airports()).unwrap(), None, limits)
}

fn setting(error: &DataError) -> &'static str {
    match error {
        DataError::TooLarge { setting, .. } => setting.strip_prefix("ingestion.limits.").unwrap(),
        DataError::Malformed { .. } => "malformed",
        other => panic!("{other}"),
    }
}

#[test]
fn parquet_that_stands_for_more_than_the_bounds_or_lies_is_refused_before_it_is_decoded() {
    let limits = ParseLimits::default();
    let honest = read("a.parquet", Crafted::of(3).bytes(), &limits).unwrap();
    assert_eq!((honest.flights.len(), honest.rejected_count), (3, 0), "{:?}", honest.rejected);
    assert_eq!(honest.flights[0].1.arrival_delay_minutes, Some(11));

    let bomb = Crafted::of(200_000_000).bytes();
    assert!(bomb.len() < 4096, "{}", bomb.len());
    let text = read("a.parquet", bomb, &limits).unwrap_err().to_string();
    for part in ["a.parquet", "200000000 rows", "at most 2000000", "ingestion.limits.max_rows"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let of = || Crafted::of(3);
    for (file, expected, found, reason) in [
        (
            Crafted { page_rows: 2_000_000_000, ..of() },
            "malformed",
            "2000000000 values for 3 rows",
            "pages with more rows",
        ),
        (Crafted { page_rows: 2, ..of() }, "malformed", "page header", "pages with fewer rows"),
        (Crafted { page_bytes: Some(2_000_000_000), ..of() }, "max_object_bytes", "after decompression", "huge pages"),
        (Crafted { page_bytes: Some(-1), ..of() }, "malformed", "states no size", "negative pages"),
        (Crafted { dictionary_values: 2_000_000_000, ..of() }, "malformed", "a dictionary of", "a huge dictionary"),
        (Crafted { encoding: 7, ..of() }, "malformed", "deltas", "texts by what they share with the one before"),
        (Crafted { stated_groups: Some(1 << 31), ..of() }, "malformed", "more elements", "a huge list in the footer"),
        (Crafted { stated_groups: Some(200), ..of() }, "malformed", "footer", "a list longer than the footer"),
        (Crafted { depth: 100_000, ..of() }, "malformed", "columns within columns", "a schema as deep as the stack"),
        (Crafted { carrier: "x".repeat(2 << 20), ..of() }, "max_line_bytes", "row 1", "a cell longer than a line"),
    ] {
        let error = read("a.parquet", file.bytes(), &limits).unwrap_err();
        assert_eq!(setting(&error), expected, "{reason}: {error}");
        assert!(error.to_string().contains(found), "{reason}: {error}");
    }

    let repeated = Crafted { carrier: "x".repeat(1 << 20), ..Crafted::of(1000) };
    let small = ParseLimits { max_line_bytes: 2 << 20, max_object_bytes: 10 << 20, ..limits };
    let error = read("a.parquet", repeated.bytes(), &small).unwrap_err();
    assert!(error.to_string().contains("bytes of text"), "text that a dictionary repeats: {error}");
    let wide = Crafted::of(1_000_000);
    let error = read("a.parquet", wide.bytes(), &ParseLimits { max_object_bytes: 10 << 20, ..limits }).unwrap_err();
    assert!(error.to_string().contains("1000000 rows of 12 columns"), "cells of a row group: {error}");
}

#[test]
fn every_byte_of_a_parquet_file_may_be_wrong_without_harm() {
    let limits = ParseLimits { max_rows: 1000, max_object_bytes: 1 << 20, ..ParseLimits::default() };
    let file = Crafted::of(3).bytes();
    // The decoder panics on some of them, which is caught; thousands of backtraces would only take time.
    std::panic::set_hook(Box::new(|_| {}));
    for at in 0..file.len() {
        for value in [0x00, 0x7f, 0x80, 0xff, file[at] ^ 0x01, file[at] ^ 0x10] {
            let mut damaged = file.clone();
            damaged[at] = value;
            // Whatever comes of it, it comes back.
            let _ = read("a", damaged, &limits);
        }
    }
}

#[test]
fn archives_are_read_as_a_stream_and_only_up_to_the_bound() {
    let limits = ParseLimits { max_object_bytes: 1 << 20, ..ParseLimits::default() };
    let text = format!("{HEADER}{}", ROW.repeat(100_000));
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    let zip = |members: &[(&str, &str)], method| {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in members {
            zip.start_file(*name, zip::write::SimpleFileOptions::default().compression_method(method)).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap().into_inner()
    };
    let deflated = zip::CompressionMethod::Deflated;
    for (key, bomb) in [("a.csv.gz", gz.finish().unwrap()), ("a.csv.zip", zip(&[("a.csv", &text)], deflated))] {
        assert!(bomb.len() < 1 << 20, "{}", bomb.len());
        let error = read(key, bomb, &limits).unwrap_err();
        assert_eq!(setting(&error), "max_object_bytes", "{error}");
        assert!(error.to_string().contains(&(1 << 20).to_string()), "{error}");
    }
    let error = read("a.csv", text.clone(), &limits).unwrap_err();
    assert_eq!(setting(&error), "max_object_bytes", "as it is stored: {error}");
    let error = read("a.csv", text, &ParseLimits { max_rows: 1000, ..ParseLimits::default() }).unwrap_err();
    assert!(setting(&error) == "max_rows" && error.to_string().contains("line 1002"), "{error}");

    let two = format!("{HEADER}{ROW}{ROW}");
    for method in [deflated, zip::CompressionMethod::Stored] {
        let mut archive = zip(&[("readme.html", "<p>"), ("a.csv", &two)], method);
        assert_eq!(read("a.csv.zip", archive.clone(), &limits).unwrap().flights.len(), 2);
        // The checksum in the directory, whose entry for the member is the last one.
        let entry = archive.windows(4).rposition(|bytes| bytes == b"PK\x01\x02").unwrap();
        archive[entry + 16] ^= 1;
        let error = read("a.csv.zip", archive, &limits).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
    }
    let names: Vec<String> = (0..1001).map(|number| format!("{number}.txt")).collect();
    let members: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let error = read("a.zip", zip(&members, deflated), &limits).unwrap_err().to_string();
    assert!(error.contains("more than 1000 members"), "{error}");
}

#[test]
fn a_quote_that_is_never_closed_and_a_header_without_end_are_refused() {
    let limits = ParseLimits::default();
    let open = format!("{HEADER}{ROW}\"{}", "9,9,9\n".repeat(500_000));
    let error = read("a.csv", open, &limits).unwrap_err();
    assert_eq!(setting(&error), "max_line_bytes", "{error}");
    assert!(error.to_string().contains("line 3: a row over several lines"), "{error}");
    let error = read("a.csv", format!("{}\n", "a,".repeat(400_000)), &limits).unwrap_err();
    assert!(error.to_string().contains("at most 2000 columns"), "{error}");
    let parsed = read("a.csv", format!("{HEADER}{}\n{ROW}", ",".repeat(900_000)), &limits).unwrap();
    assert_eq!((parsed.flights.len(), parsed.rejected_count), (1, 1), "a row of a million cells is one bad row");
}

#[test]
fn a_calendar_stands_for_so_many_days_and_tells_so_many_faults() {
    let limits = ParseLimits::default();
    let event = |year: u32| {
        format!(
            "BEGIN:VEVENT\nDTSTART:{year:04}0101\nDTEND:{year:04}0131\nRRULE:FREQ=YEARLY\nSUMMARY:{}\nEND:VEVENT\n",
            "x".repeat(100_000)
        )
    };
    let calendar = |events: &str| Bytes::from(format!("BEGIN:VCALENDAR\n{events}END:VCALENDAR\n"));
    let (days, _) = parse_icalendar("h.ics", &calendar(&event(2000)), &limits).unwrap();
    assert!(days.values().all(|name| name.len() == 200), "names are cut");
    let error = parse_icalendar("h.ics", &calendar(&(1..9).map(event).collect::<String>()), &limits).unwrap_err();
    assert!(error.to_string().contains("more than 200000 days"), "{error}");
    let (_, faults) =
        parse_icalendar("h.ics", &calendar(&"BEGIN:VEVENT\nDTSTART:oops\nEND:VEVENT\n".repeat(1000)), &limits).unwrap();
    assert!(faults.len() == 101 && faults[100].contains("900 more faults"), "{:?}", faults.last());
    let few = ParseLimits { max_rows: 100, ..limits };
    assert_eq!(setting(&parse_icalendar("h.ics", &calendar(&"\n".repeat(1000)), &few).unwrap_err()), "max_rows");
    let folded = calendar(&format!("SUMMARY:x\n{}", " x\n".repeat(2 << 20)));
    assert_eq!(setting(&parse_icalendar("h.ics", &folded, &limits).unwrap_err()), "max_line_bytes");
    let (_, faults) =
        parse_events_csv("e.csv", &Bytes::from(format!("date,name\n{}", "x,y\n".repeat(999))), &limits).unwrap();
    assert_eq!(faults.len(), 101);
}

#[tokio::test]
async fn an_object_over_the_bound_is_not_fetched_and_is_taken_once_the_bound_is_raised() {
    let store = Arc::new(MemoryStore::default());
    store.write("flights/a.csv", format!("{HEADER}{}", ROW.repeat(100)), "2013-07-02T00:00:00Z");
    let small = ParseLimits { max_object_bytes: 1024, ..ParseLimits::default() };
    let refused = ingest(&store, &BTreeMap::new(), small).await;
    assert_eq!((refused.accepted.len(), store.gets.load(Ordering::SeqCst)), (0, 0));
    let error = refused.report.objects[0].error.as_deref().unwrap();
    assert!(error.contains("flights/a.csv") && error.contains("max_object_bytes"), "{error}");
    let again = ingest(&store, &refused.seen, small).await;
    assert!(again.report.objects.is_empty(), "it is told once");

    let few = ParseLimits { max_rows: 10, ..ParseLimits::default() };
    let refused = ingest(&store, &refused.seen, few).await;
    assert!(refused.report.objects[0].error.as_deref().unwrap().contains("max_rows"));
    assert!(ingest(&store, &refused.seen, few).await.report.objects.is_empty());
    let taken = ingest(&store, &refused.seen, ParseLimits::default()).await;
    assert_eq!((taken.report.objects[0].error.as_deref(), taken.report.objects[0].rows), (None, 100));
}

async fn ingest(store: &Arc<MemoryStore>, known: &BTreeMap<String, KnownObject>, limits: ParseLimits) -> Ingested {
    let port: Arc<dyn ObjectStore> = store.clone();
    let options = IngestOptions { reader: ObjectReader::within(limits), ..IngestOptions::default() };
    let contract = Contract::built_in().unwrap();
    ingest_new(&port, known, &options, &contract, &airports(), utc("2013-08-01T00:00:00Z")).await.unwrap()
}
