//! What a query found, and an answer to it that shows something else: rows withheld, counts that are
//! off, empty answers in odd forms, records that are no JSON.
//!
//! Only queries over a window meet these, and one answer meets one of them at most.

use super::{Call, query::Query, record::Edition, rng::mix, seed::fold, table::Selection};

/// One way in which a page is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PageFault {
    /// One row is left out.
    Withhold,
    /// One row is left out, and its neighbour stands twice.
    WithholdDouble,
    /// A page that is not the last has this many rows.
    ShortPage(usize),
    /// The rows of the next page, or for the last page of the one before.
    NeighbourPage,
    /// The count is off by this much.
    CountOff(i64),
    /// A page without rows is written in this form.
    EmptyForm(EmptyForm),
    /// These bytes stand in the remark of one record: of this number, or of any.
    Broken(&'static [u8], Option<String>),
}

/// How an answer without rows is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EmptyForm {
    /// `"data":[]`: PHP's empty object.
    DataArray,
    DataObject,
    DataNull,
    DataAbsent,
    /// `"order":{}`, in the enterprise edition `"stockout_list":{}`.
    OrderObject,
    OrderNull,
    OrderAbsent,
}

impl EmptyForm {
    const ALL: [(&'static str, Self); 7] = [
        ("data_array", Self::DataArray),
        ("data_object", Self::DataObject),
        ("data_null", Self::DataNull),
        ("data_absent", Self::DataAbsent),
        ("order_object", Self::OrderObject),
        ("order_null", Self::OrderNull),
        ("order_absent", Self::OrderAbsent),
    ];

    /// Whether a count has a place in it.
    fn counts(self) -> bool {
        matches!(self, Self::OrderObject | Self::OrderNull | Self::OrderAbsent)
    }

    /// The answer; `total` is the count's field with a comma behind it, or nothing. The enterprise
    /// edition has no `data`: there these forms lack list and count.
    fn text(self, edition: Edition, total: &str) -> String {
        let list = match self {
            Self::OrderObject => Some("{}"),
            Self::OrderNull => Some("null"),
            _ => None,
        };
        let fields = |name: &str| match list {
            Some(list) => format!("{total}\"{name}\":{list}"),
            None => total.trim_end_matches(',').to_owned(),
        };
        match (edition, self) {
            (Edition::Flagship, Self::DataArray) => "{\"status\":0,\"data\":[]}".to_owned(),
            (Edition::Flagship, Self::DataObject) => "{\"status\":0,\"data\":{}}".to_owned(),
            (Edition::Flagship, Self::DataNull) => "{\"status\":0,\"data\":null}".to_owned(),
            (Edition::Flagship, Self::DataAbsent) => "{\"status\":0}".to_owned(),
            (Edition::Flagship, _) => {
                format!("{{\"status\":0,\"data\":{{{}}}}}", fields("order"))
            }
            (Edition::Enterprise, form) if form.counts() => {
                let fields = fields("stockout_list");
                let comma = if fields.is_empty() { "" } else { "," };
                format!("{{\"code\":0,\"message\":\"succeed\"{comma}{fields}}}")
            }
            (Edition::Enterprise, _) => "{\"code\":0,\"message\":\"succeed\"}".to_owned(),
        }
    }
}

impl PageFault {
    /// The fault of this name, with what stands in its brackets; `None` when there is none.
    ///
    /// # Errors
    /// One sentence about the argument.
    pub(super) fn read(name: &str, argument: Option<&str>) -> Result<Option<Self>, String> {
        let number = || argument.map(str::to_owned);
        Ok(Some(match name {
            "withhold" => Self::Withhold,
            "withhold_double" => Self::WithholdDouble,
            "short_page" => {
                let rows = argument.and_then(|digits| digits.parse().ok());
                Self::ShortPage(
                    rows.ok_or("\"short_page\" needs a number of rows, for example short_page(7)")?,
                )
            }
            "neighbour_page" => Self::NeighbourPage,
            "count_off" => {
                let by = argument.and_then(|digits| digits.parse().ok()).filter(|by| *by != 0);
                Self::CountOff(by.ok_or(
                    "\"count_off\" needs a number other than 0, for example count_off(-1)",
                )?)
            }
            "empty_form" => {
                let form = EmptyForm::ALL.iter().find(|(form, _)| Some(*form) == argument);
                let (_, form) = form.ok_or_else(|| {
                    let forms = EmptyForm::ALL.map(|(form, _)| form).join(", ");
                    format!("\"empty_form\" needs one of {forms} in brackets")
                })?;
                Self::EmptyForm(*form)
            }
            "broken_character" => Self::Broken(CUT_CHARACTER, number()),
            "raw_newline" => Self::Broken(b"\n", number()),
            _ => return Ok(None),
        }))
    }

    fn withholds(&self) -> bool {
        matches!(
            self,
            Self::Withhold | Self::WithholdDouble | Self::ShortPage(_) | Self::NeighbourPage
        )
    }

    /// Whether it makes a count too low.
    pub(super) fn counts_low(&self) -> bool {
        matches!(self, Self::CountOff(by) if *by < 0)
    }

    /// Whether this answer can show it. `low_counts`: this selection is one of those whose counts may
    /// be too low, so none of its rows is withheld.
    pub(super) fn fits(&self, query: &Query, found: &Found, low_counts: bool) -> bool {
        let rows = found.rows.len();
        if low_counts && self.withholds() {
            return false;
        }
        match self {
            Self::Withhold => rows > 0,
            Self::WithholdDouble => rows > 1,
            Self::ShortPage(most) => rows > *most && !query.is_last_of(found.paged),
            Self::NeighbourPage => rows > 0 && found.paged > query.page_size,
            Self::CountOff(by) => {
                query.total
                    && found.count.checked_add_signed(*by).is_some_and(|count| {
                        // A count that takes away a page withholds the rows of that page.
                        *by > 0
                            || low_counts
                                && count.div_ceil(query.page_size)
                                    == found.count.div_ceil(query.page_size)
                    })
            }
            Self::EmptyForm(form) => {
                rows == 0 && (form.counts() || !query.total || found.count == 0)
            }
            Self::Broken(_, number) => {
                found.rows.iter().any(|row| breakable(row, number.as_deref()).is_some())
            }
        }
    }

    /// The answer that shows it; `chance` decides about the row, `neighbour` asks for another page.
    pub(super) fn answer(
        &self,
        query: &Query,
        mut found: Found,
        chance: u64,
        neighbour: impl FnOnce(u64) -> Found,
    ) -> Vec<u8> {
        let of = |count: usize| {
            usize::try_from(chance.checked_rem(count as u64).unwrap_or(0)).unwrap_or(0)
        };
        let at = of(found.rows.len());
        match self {
            Self::Withhold => {
                found.rows.remove(at);
            }
            Self::WithholdDouble => {
                let beside = if at == 0 { 1 } else { at - 1 };
                if let Some(row) = found.rows.get(beside).cloned()
                    && let Some(place) = found.rows.get_mut(at)
                {
                    *place = row;
                }
            }
            Self::ShortPage(most) => found.rows.truncate(*most),
            Self::NeighbourPage => {
                let page_no = if query.is_last_of(found.paged) {
                    query.page_no.saturating_sub(1)
                } else {
                    query.page_no + 1
                };
                found.rows = neighbour(page_no).rows;
            }
            Self::CountOff(by) => found.count = found.count.saturating_add_signed(*by),
            Self::EmptyForm(form) => {
                return form.text(query.call.edition(), &query.total_field(&found)).into_bytes();
            }
            Self::Broken(with, number) => {
                let places: Vec<(usize, usize)> = found
                    .rows
                    .iter()
                    .enumerate()
                    .filter_map(|(at, row)| Some((at, breakable(row, number.as_deref())?)))
                    .collect();
                if let Some((at, place)) = places.get(of(places.len()))
                    && let Some(row) = found.rows.get_mut(*at)
                {
                    row.splice(place..place, with.iter().copied());
                }
            }
        }
        query.answer(&found)
    }
}

/// The first two of a character's three bytes.
const CUT_CHARACTER: &[u8] = &[0xe7, 0xa0];

/// Where the remark of a record begins, if it is a text and the record is the one with this number.
fn breakable(row: &[u8], number: Option<&str>) -> Option<usize> {
    let holds = |part: &str| row.windows(part.len()).any(|bytes| bytes == part.as_bytes());
    if number.is_some_and(|number| !holds(&format!("\"{number}\""))) {
        return None;
    }
    const REMARK: &[u8] = b"\"remark\":\"";
    let (mut depth, mut in_text, mut escaped) = (0_i32, false, false);
    for (at, byte) in row.iter().enumerate() {
        if in_text {
            (in_text, escaped) = (escaped || *byte != b'"', !escaped && *byte == b'\\');
            continue;
        }
        match byte {
            b'"' if depth == 1 && row.get(at..).is_some_and(|rest| rest.starts_with(REMARK)) => {
                return Some(at + REMARK.len());
            }
            b'"' => in_text = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// One page as a query found it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Records as the ERP counts them.
    pub count: u64,
    /// Records it divides into pages: those the account may see, where it filters before it pages.
    pub paged: u64,
    /// Each as JSON.
    pub rows: Vec<Vec<u8>>,
}

/// A number of a query less its paging, the same in every run.
pub(super) fn number_of(call: Call, selection: &Selection) -> u64 {
    let Selection { over, statuses, warehouse_no, provider_no, unseen: _ } = selection;
    mix(fold(&format!("{call:?} {over:?} {statuses:?} {warehouse_no:?} {provider_no:?}")))
}
