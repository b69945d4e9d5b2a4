//! IANA time zones for airports whose source names only country and region, as
//! OurAirports does. Source: the zones of the US states (49 CFR part 71), the
//! airports of divided states by name, and countries that keep one time.

/// The zone of an airport by IATA code, ISO 3166-2 region and ISO 3166-1 country.
#[must_use]
pub(super) fn zone_of(code: &str, region: &str, country: &str) -> Option<&'static str> {
    let find = |table: &'static [(&str, &str)], name: &str| {
        table.iter().find(|(names, _)| names.split(' ').any(|one| one == name)).map(|(_, zone)| *zone)
    };
    if country == "US"
        && let Some(zone) = find(DIVIDED_STATES, code)
    {
        return Some(zone);
    }
    find(REGIONS, region).or_else(|| find(COUNTRIES, country))
}

/// Airports that keep another time than the larger part of their state.
const DIVIDED_STATES: &[(&str, &str)] = &[
    ("PNS VPS ECP PFN PAM NPA", "America/Chicago"),
    ("TYS CHA TRI", "America/New_York"),
    ("BWG OWB PAH", "America/Chicago"),
    ("EVV GYY", "America/Chicago"),
    ("IMT", "America/Chicago"),
    ("ELP BIF", "America/Denver"),
    ("BFF CDR AIA", "America/Denver"),
    ("DIK", "America/Denver"),
    ("RAP", "America/Denver"),
    ("GLD", "America/Denver"),
    ("LWS COE", "America/Los_Angeles"),
    ("ONO", "America/Boise"),
    ("ENV", "America/Denver"),
    ("ADK", "America/Adak"),
];

const REGIONS: &[(&str, &str)] = &[
    (
        "US-CT US-DC US-DE US-FL US-GA US-MA US-MD US-ME US-NC US-NH US-NJ US-NY US-OH US-PA US-RI US-SC US-VA US-VT US-WV",
        "America/New_York",
    ),
    ("US-MI", "America/Detroit"),
    ("US-IN", "America/Indiana/Indianapolis"),
    ("US-KY", "America/Kentucky/Louisville"),
    (
        "US-AL US-AR US-IA US-IL US-KS US-LA US-MN US-MO US-MS US-ND US-NE US-OK US-SD US-TN US-TX US-WI",
        "America/Chicago",
    ),
    ("US-CO US-MT US-NM US-UT US-WY", "America/Denver"),
    ("US-ID", "America/Boise"),
    ("US-AZ", "America/Phoenix"),
    ("US-CA US-NV US-OR US-WA", "America/Los_Angeles"),
    ("US-AK", "America/Anchorage"),
    ("US-HI", "Pacific/Honolulu"),
    ("CA-NL", "America/St_Johns"),
    ("CA-NS CA-NB CA-PE", "America/Halifax"),
    ("CA-ON CA-QC", "America/Toronto"),
    ("CA-MB", "America/Winnipeg"),
    ("CA-SK", "America/Regina"),
    ("CA-AB", "America/Edmonton"),
    ("CA-BC", "America/Vancouver"),
    ("MX-ROO", "America/Cancun"),
    ("MX-CMX MX-MEX MX-JAL MX-GUA MX-PUE MX-YUC MX-NLE", "America/Mexico_City"),
];

const COUNTRIES: &[(&str, &str)] = &[
    ("PR", "America/Puerto_Rico"),
    ("VI", "America/St_Thomas"),
    ("GU MP", "Pacific/Guam"),
    ("AS", "Pacific/Pago_Pago"),
    ("BS", "America/Nassau"),
    ("BM", "Atlantic/Bermuda"),
    ("CU", "America/Havana"),
    ("DO", "America/Santo_Domingo"),
    ("JM", "America/Jamaica"),
    ("AW", "America/Aruba"),
    ("CR", "America/Costa_Rica"),
    ("PA", "America/Panama"),
    ("CO", "America/Bogota"),
    ("PE", "America/Lima"),
    ("GB", "Europe/London"),
    ("IE", "Europe/Dublin"),
    ("FR", "Europe/Paris"),
    ("DE", "Europe/Berlin"),
    ("NL", "Europe/Amsterdam"),
    ("CH", "Europe/Zurich"),
    ("IT", "Europe/Rome"),
    ("IS", "Atlantic/Reykjavik"),
    ("JP", "Asia/Tokyo"),
    ("KR", "Asia/Seoul"),
    ("IN", "Asia/Kolkata"),
    ("AE", "Asia/Dubai"),
];
