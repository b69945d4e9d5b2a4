//! What the tests need, and days of the recorded year.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::programs::training_program;

/// The programs that a daemon starts, and the data.
pub struct Needs {
    pub service: PathBuf,
    pub trainer: PathBuf,
    pub data: PathBuf,
}

pub fn delayd() -> &'static Path {
    crate::programs::delayd()
}

/// What the tests need, or `None` after saying loudly what is missing.
pub fn needs(test: &str) -> Option<Needs> {
    let beside = delayd().parent().unwrap();
    let service =
        std::env::var_os("DELAYD_SERVE_BIN").map_or_else(|| beside.join("service/delayd-serve"), PathBuf::from);
    let in_tree = crate::programs::root().join(".data/nycflights13");
    let data = std::env::var_os("DELAYD_DATA").map_or(in_tree, PathBuf::from);
    if !service.is_file() {
        eprintln!(
            "SKIPPED: {test}: no service binary at {}; build it, or name it in DELAYD_SERVE_BIN",
            service.display()
        );
        return None;
    }
    let trainer = training_program().map_err(|missing| eprintln!("SKIPPED: {test}: {missing}")).ok()?;
    if !["flights.csv", "flights.csv.zip"].iter().any(|name| data.join(name).is_file()) {
        eprintln!(
            "SKIPPED: {test}: no flights.csv or flights.csv.zip in {}; name the folder in DELAYD_DATA",
            data.display()
        );
        return None;
    }
    Some(Needs { service: service.canonicalize().unwrap(), trainer, data })
}

pub fn flights_text(data: &Path) -> Option<Box<dyn Read>> {
    if let Ok(plain) = File::open(data.join("flights.csv")) {
        return Some(Box::new(plain));
    }
    let mut archive = zip::ZipArchive::new(File::open(data.join("flights.csv.zip")).ok()?).ok()?;
    let mut text = Vec::new();
    archive.by_index(0).ok()?.read_to_end(&mut text).ok()?;
    Some(Box::new(std::io::Cursor::new(text)))
}

/// Month and day.
pub type Day = (u32, u32);

/// Copies the rows of some days; `change` may alter each, told its day and number.
pub fn copy_days(
    from: impl Read,
    to: &Path,
    first: Day,
    last: Day,
    mut change: impl FnMut(&mut Flight, Day, usize),
) -> usize {
    let mut reader = csv::Reader::from_reader(from);
    let header = reader.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|found| found == name).unwrap();
    let (month, day) = (column("month"), column("day"));
    let mut writer = csv::Writer::from_path(to).unwrap();
    writer.write_record(&header).unwrap();
    let mut copied = 0;
    for record in reader.records() {
        let record = record.unwrap();
        let today: Day = (record[month].parse().unwrap(), record[day].parse().unwrap());
        if today < first || today > last {
            continue;
        }
        let mut flight = Flight { header: &header, cells: record.iter().map(str::to_owned).collect() };
        change(&mut flight, today, copied);
        writer.write_record(&flight.cells).unwrap();
        copied += 1;
    }
    writer.flush().unwrap();
    copied
}

/// One line of the file.
pub struct Flight<'a> {
    pub header: &'a csv::StringRecord,
    pub cells: Vec<String>,
}

impl Flight<'_> {
    pub fn cell(&mut self, name: &str) -> &mut String {
        let position = self.header.iter().position(|found| found == name).unwrap_or_else(|| panic!("no column {name}"));
        &mut self.cells[position]
    }

    pub fn set(&mut self, name: &str, value: impl ToString) {
        *self.cell(name) = value.to_string();
    }

    /// Another fate: one in five is cancelled, one in five is punctual, the others
    /// come one and a half to five and a half hours late.
    pub fn fate(&mut self, number: usize) {
        if number.is_multiple_of(5) {
            for name in ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "tailnum"] {
                self.set(name, "NA");
            }
            return;
        }
        let delay = if number % 5 == 1 { 0 } else { 90 + (number * 37 % 240) as i64 };
        let (departure, arrival) = (self.cell("sched_dep_time").clone(), self.cell("sched_arr_time").clone());
        self.set("dep_time", clock_after(&departure, delay));
        self.set("dep_delay", delay);
        self.set("arr_time", clock_after(&arrival, delay));
        self.set("arr_delay", delay);
        if self.cell("air_time").as_str() == "NA" {
            self.set("air_time", 60);
        }
        self.set("tailnum", "N00000");
    }
}

/// `2350` and 20 minutes make `10`.
pub fn clock_after(hhmm: &str, minutes: i64) -> i64 {
    let hhmm: i64 = hhmm.parse().unwrap();
    let later = (hhmm / 100 * 60 + hhmm % 100 + minutes).rem_euclid(24 * 60);
    if later == 0 { 2400 } else { later / 60 * 100 + later % 60 }
}

/// A folder with some days of the recorded year.
pub fn reduced(data: &Path, folder: &Path, first: Day, last: Day, change: impl FnMut(&mut Flight, Day, usize)) {
    fs::create_dir_all(folder).unwrap();
    let flights = copy_days(flights_text(data).unwrap(), &folder.join("flights.csv"), first, last, change);
    assert!(flights > 5_000, "only {flights} flights from {first:?} to {last:?} in {}", data.display());
    let weather = File::open(data.join("weather.csv")).unwrap();
    copy_days(weather, &folder.join("weather.csv"), first, last, |_, _, _| ());
    fs::copy(data.join("airports.csv"), folder.join("airports.csv")).unwrap();
}
