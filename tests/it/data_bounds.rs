//! Small files that stand for huge ones, and huge ones: refused before they take memory, with the bound to raise.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use delayd_core::ports::ObjectStore;
use delayd_data::contract::Contract;
use delayd_data::formats::{ParseLimits, ParsedObject, parse_flights};
use delayd_data::holidays::{parse_events_csv, parse_icalendar};
use delayd_data::ingest::KnownObject;
use delayd_data::validation::{Validated, ValidationInput, quarantine_csv, validate};
use delayd_data::{DataError, FlightRecord, ObjectReader, TimeZones};
use delayd_testkit::data_support::{MemoryStore, Pass, airports, flight, judge_by, utc};

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
fn a_calendar_stands_for_so_many_days_and_reports_so_many_faults() {
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
    assert_eq!((refused.accepted(), store.gets.load(Ordering::SeqCst)), (0, 0));
    let error = refused.objects[0].report.error.as_deref().unwrap();
    assert!(error.contains("flights/a.csv") && error.contains("max_object_bytes"), "{error}");
    let seen = refused.seen(&BTreeMap::new());
    let again = ingest(&store, &seen, small).await;
    assert!(again.objects.is_empty(), "it is told once");

    let few = ParseLimits { max_rows: 10, ..ParseLimits::default() };
    let refused = ingest(&store, &seen, few).await;
    assert!(refused.objects[0].report.error.as_deref().unwrap().contains("max_rows"));
    let seen = refused.seen(&BTreeMap::new());
    assert!(ingest(&store, &seen, few).await.objects.is_empty());
    let taken = ingest(&store, &seen, ParseLimits::default()).await;
    assert_eq!((taken.objects[0].report.error.as_deref(), taken.objects[0].report.rows), (None, 100));
}

async fn ingest(store: &Arc<MemoryStore>, known: &BTreeMap<String, KnownObject>, limits: ParseLimits) -> Pass {
    let port: Arc<dyn ObjectStore> = store.clone();
    let judge = judge_by(Contract::built_in().unwrap(), airports(), ObjectReader::within(limits));
    Pass::over(&port, known, judge, "2013-08-01T00:00:00Z").await
}

// ----------------------------------------------------------------
// Parquet files byte by byte, to say what no writer would: a few bytes that stand for any number of rows, and lengths
// that lie.

const COLUMNS: [(&str, &str); 12] = [
    ("carrier", "UA"),
    ("flight_number", "1545"),
    ("origin", "EWR"),
    ("dest", "IAH"),
    ("scheduled_departure", "2013-01-01T10:15:00Z"),
    ("scheduled_arrival", "2013-01-01T14:19:00Z"),
    ("distance_miles", "1400"),
    ("departed_at", "2013-01-01T10:17:00Z"),
    ("arrived_at", "2013-01-01T14:30:00Z"),
    ("arrival_delay_minutes", "11"),
    ("cancelled", "false"),
    ("diverted", "false"),
];

/// Flights, all the same: each column has a dictionary of one value and one page that repeats it.
#[derive(Clone)]
pub struct Crafted {
    pub rows: i64,
    /// What the page headers say of the rows.
    pub page_rows: i64,
    /// What they say of the bytes of a page, where not the truth.
    pub page_bytes: Option<i64>,
    /// What they say of the dictionary.
    pub dictionary_values: i64,
    /// RLE_DICTIONARY; 7 is DELTA_BYTE_ARRAY.
    pub encoding: i64,
    /// How many row groups the footer says there are, where not the truth.
    pub stated_groups: Option<u64>,
    /// Groups within groups around another column.
    pub depth: usize,
    pub carrier: String,
}

impl Crafted {
    pub fn of(rows: i64) -> Self {
        Self {
            rows,
            page_rows: rows,
            page_bytes: None,
            dictionary_values: 1,
            encoding: 8,
            stated_groups: None,
            depth: 0,
            carrier: "UA".to_owned(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"PAR1".to_vec();
        let mut chunks = Vec::new();
        let mut schema = vec![structure(&[(4, bytes(b"flights")), (5, int(12 + i64::from(self.depth > 0)))])];
        for (name, value) in COLUMNS {
            let value = if name == "carrier" { self.carrier.as_bytes() } else { value.as_bytes() };
            schema.push(structure(&[(1, int(6)), (3, int(0)), (4, bytes(name.as_bytes())), (6, int(0))]));
            let start = file.len() as i64;
            let dictionary = [&(value.len() as u32).to_le_bytes()[..], value].concat();
            let about = structure(&[(1, int(self.dictionary_values)), (2, int(0))]);
            self.page(&mut file, 2, &dictionary, (7, (12, about)));
            let data_start = file.len() as i64;
            // One bit for each index into the dictionary; a run of them that are all 0.
            let data = [vec![1], varint((self.rows as u64) << 1), vec![0]].concat();
            let about = structure(&[(1, int(self.page_rows)), (2, int(self.encoding)), (3, int(3)), (4, int(3))]);
            self.page(&mut file, 0, &data, (5, (12, about)));
            let length = file.len() as i64 - start;
            let column = structure(&[
                (1, int(6)),
                (2, list(5, &[int(8).1, int(0).1])),
                (3, list(8, &[bytes(name.as_bytes()).1])),
                (4, int(0)),
                (5, int(self.rows)),
                (6, int(length)),
                (7, int(length)),
                (9, int(data_start)),
                (11, int(start)),
            ]);
            chunks.push(structure(&[(2, int(start)), (3, (12, column))]));
        }
        for level in 0..self.depth {
            let name = format!("level{level}");
            schema.push(structure(&[(3, int(1)), (4, bytes(name.as_bytes())), (5, int(1))]));
        }
        let group = structure(&[(1, list(12, &chunks)), (2, int(file.len() as i64)), (3, int(self.rows))]);
        let mut groups = list(12, &[group]);
        if let Some(stated) = self.stated_groups {
            groups.1 = [vec![0xfc], varint(stated), groups.1[1..].to_vec()].concat();
        }
        let footer = structure(&[(1, int(1)), (2, list(12, &schema)), (3, int(self.rows)), (4, groups)]);
        file.extend(&footer);
        file.extend((footer.len() as u32).to_le_bytes());
        file.extend(b"PAR1");
        file
    }

    fn page(&self, file: &mut Vec<u8>, kind: i64, body: &[u8], about: (i16, Field)) {
        let stated = self.page_bytes.unwrap_or(body.len() as i64);
        file.extend(structure(&[(1, int(kind)), (2, int(stated)), (3, int(body.len() as i64)), about]));
        file.extend(body);
    }
}

/// A type of Thrift's compact protocol, and the value's bytes.
type Field = (u8, Vec<u8>);

fn structure(fields: &[(i16, Field)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut last = 0;
    for (id, (kind, value)) in fields {
        out.push((((id - last) as u8) << 4) | kind);
        out.extend(value);
        last = *id;
    }
    out.push(0);
    out
}

fn int(value: i64) -> Field {
    (6, varint(((value << 1) ^ (value >> 63)) as u64))
}

fn bytes(value: &[u8]) -> Field {
    (8, [varint(value.len() as u64), value.to_vec()].concat())
}

fn list(kind: u8, values: &[Vec<u8>]) -> Field {
    let head = if values.len() < 15 {
        vec![((values.len() as u8) << 4) | kind]
    } else {
        [vec![0xf0 | kind], varint(values.len() as u64)].concat()
    };
    (9, [head, values.concat()].concat())
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

// ----------------------------------------------------------------
// The contract against good, bad and contradictory flights.

fn judged(rows: Vec<FlightRecord>) -> Validated {
    let input = ValidationInput { source: "old.csv".into(), flights: (2..).zip(rows).collect(), ..Default::default() };
    validate(input, &Contract::built_in().unwrap(), &airports(), utc("2013-08-01T00:00:00Z"))
}

fn good(number: u32) -> FlightRecord {
    flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)
}

#[test]
fn every_rule_that_a_row_breaks_is_reported() {
    let mut bad = good(20_000);
    bad.dest = "XXX".into();
    bad.arrived_at = Some(bad.departed_at.unwrap());
    bad.distance_miles = Some(5.0);
    let validated = judged(vec![good(2), bad]);
    assert_eq!(validated.accepted.len(), 1);
    let reasons = validated.quarantined[0].reasons.join("\n");
    for part in ["flight_number.range", "unknown_airport: `XXX`", "arrival_not_after_departure", "distance_miles.range"]
    {
        assert!(reasons.contains(part), "{part} in {reasons}");
    }
    let csv = String::from_utf8(quarantine_csv(&validated.quarantined).unwrap()).unwrap();
    assert!(csv.starts_with("object,line,flight,reasons\nold.csv,3,B620000 JFK-XXX"), "{csv}");
}

#[test]
fn exact_duplicates_are_dropped_and_of_contradicting_ones_the_later_wins() {
    let mut corrected = good(4);
    corrected.arrival_delay_minutes = Some(7);
    let validated = judged(vec![good(4), good(2), good(2), corrected.clone()]);
    assert_eq!(validated.report.exact_duplicates, 1);
    assert_eq!(validated.report.conflicting_duplicates, 1);
    assert_eq!(validated.accepted, vec![good(2), corrected]);
    assert_eq!((validated.quarantined[0].object.as_str(), validated.quarantined[0].line), ("old.csv", 2));
    assert!(
        validated.quarantined[0].reasons[0].contains("old.csv line 5 differs and is newer"),
        "{:?}",
        validated.quarantined
    );
}

#[test]
fn a_flight_from_the_future_or_too_far_ahead_is_set_aside() {
    let future = flight(2, "LAX", "2013-09-01T12:00:00Z", 5, 3);
    let mut far = flight(4, "LAX", "2016-09-01T12:00:00Z", 5, 3);
    (far.departed_at, far.arrived_at, far.arrival_delay_minutes) = (None, None, None);
    let validated = judged(vec![future, far]);
    assert_eq!(validated.report.violations["outcome_in_the_future"], 2);
    assert_eq!(validated.report.violations["departure_too_far_ahead"], 1);
    assert!(validated.accepted.is_empty());
}

#[test]
fn too_many_bad_rows_or_missing_values_fail_the_dataset() {
    let mut rows: Vec<_> = (1..=300).map(good).collect();
    assert_eq!(judged(rows.clone()).report.failures, Vec::<String>::new());
    for record in rows.iter_mut().take(60) {
        record.dest = "XXX".into();
        record.scheduled_arrival = None;
    }
    let failures = judged(rows).report.failures;
    assert_eq!(failures.len(), 2, "{failures:?}");
    let text = failures.join("; ");
    assert!(text.contains("scheduled_arrival") && text.contains("60 of 300"), "{text}");
}

#[test]
fn outliers_and_inconsistent_delays_are_flagged_and_kept() {
    let mut rows: Vec<_> = (1..=300).map(good).collect();
    rows[0].departed_at = rows[0].departed_at.map(|moment| moment + chrono::TimeDelta::minutes(300));
    rows[1].arrival_delay_minutes = Some(90);
    let validated = judged(rows);
    assert_eq!(validated.accepted.len(), 300);
    assert_eq!(validated.report.outliers["departure_delay_minutes"], 1);
    assert_eq!(validated.report.violations["arrival_delay_inconsistent"], 1);
}

#[test]
fn a_feature_that_reads_the_future_is_refused_with_the_moment_it_is_known() {
    let contract = Contract::built_in().unwrap();
    let all = delayd_features::NumericInput::ALL.iter().map(|input| input.name());
    contract.feature_sources_check(all).unwrap();
    contract.feature_sources_check(["carrier", "distance_miles"]).unwrap();
    let error = contract.feature_sources_check(["distance_miles", "departed_at", "arrival_delay_minutes"]).unwrap_err();
    assert!(matches!(&error, DataError::FutureColumn { columns } if columns.len() == 2));
    assert!(error.to_string().contains("`departed_at` is known at departure"), "{error}");
    assert!(contract.feature_sources_check(["wings"]).unwrap_err().to_string().contains("wings"));
}

#[test]
fn a_contract_that_claims_to_know_the_future_is_refused() {
    let text = include_str!("../../config/contract.toml");
    let lying = text.replace("known_when = \"departure\"", "known_when = \"schedule\"");
    let error = Contract::parse(&lying).unwrap_err().to_string();
    assert!(error.contains("columns.departed_at.known_when") && error.contains("columns.cancelled"), "{error}");
    let error = Contract::parse(&text.replace("format = 1", "format = 1\nwings = 2")).unwrap_err().to_string();
    assert!(error.contains("wings"), "{error}");
}
