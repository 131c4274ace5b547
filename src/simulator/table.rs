//! Records of one kind, twice: as the ERP holds them, and as its queries already show them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::{
    record::Row,
    rng::{Rng, mix},
};

/// In which order a query's pages run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PageOrder {
    #[default]
    IdAsc,
    IdDesc,
    ModifiedAsc,
    ModifiedDesc,
    /// Fixed for each record by the seed, and otherwise without any sense.
    Shuffled,
}

/// What a query is over; windows are closed, in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Modified(i64, i64),
    Created(i64, i64),
    Shipped(i64, i64),
    Number(String),
    /// The number contains this.
    NumberLike(String),
    Source(String),
}

/// A query less its paging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    pub over: Over,
    /// Empty: every status.
    pub statuses: Vec<i32>,
    pub warehouse_no: Option<String>,
    pub provider_no: Option<String>,
    pub unseen: Unseen,
}

/// Records that the script hides from one query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unseen {
    pub warehouses: Vec<String>,
    /// Those created after this Unix second.
    pub created_after: Option<i64>,
}

/// Recent selections whose sorted result is kept, so that paging does not sort anew for each page.
const KEPT_RESULTS: usize = 8;

#[derive(Debug)]
pub(super) struct Table<R> {
    first_id: u32,
    truth: Vec<Arc<R>>,
    visible: Vec<Option<Arc<R>>>,
    by_number: HashMap<Box<str>, u32>,
    by_source: HashMap<Box<str>, Vec<u32>>,
    by_modified: BTreeSet<(i64, u32)>,
    by_created: BTreeSet<(i64, u32)>,
    by_shipped: BTreeSet<(i64, u32)>,
    pending: BTreeMap<(u64, u64), Arc<R>>,
    puts: u64,
    order: PageOrder,
    seed: u64,
    hidden_warehouses: HashSet<String>,
    /// Records of these are counted and never shown.
    unpermitted_warehouses: HashSet<String>,
    /// They are left out of the page that was cut, not before it is cut.
    unpermitted_after_limit: bool,
    shuffle_equal: bool,
    /// Goes up with every query whose equal rows are shuffled.
    shuffles: u64,
    /// Goes up with everything that may change a result.
    version: u64,
    results: VecDeque<(Selection, u64, Arc<[u32]>)>,
}

impl<R: Row> Table<R> {
    pub(super) fn new(first_id: u32, order: PageOrder, seed: u64) -> Self {
        Self {
            first_id,
            truth: Vec::new(),
            visible: Vec::new(),
            by_number: HashMap::new(),
            by_source: HashMap::new(),
            by_modified: BTreeSet::new(),
            by_created: BTreeSet::new(),
            by_shipped: BTreeSet::new(),
            pending: BTreeMap::new(),
            puts: 0,
            order,
            seed,
            hidden_warehouses: HashSet::new(),
            unpermitted_warehouses: HashSet::new(),
            unpermitted_after_limit: false,
            shuffle_equal: false,
            shuffles: 0,
            version: 0,
            results: VecDeque::new(),
        }
    }

    pub(super) fn next_id(&self) -> u32 {
        self.first_id.saturating_add(u32::try_from(self.truth.len()).unwrap_or(u32::MAX))
    }

    pub(super) fn len(&self) -> usize {
        self.truth.len()
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Every record as the ERP holds it, by id.
    pub(super) fn all(&self) -> &[Arc<R>] {
        &self.truth
    }

    pub(super) fn by_number(&self, number: &str) -> Option<&Arc<R>> {
        self.truth.get(self.slot(*self.by_number.get(number)?))
    }

    pub(super) fn by_id(&self, id: u32) -> Option<&Arc<R>> {
        self.truth.get(self.slot(id))
    }

    fn slot(&self, id: u32) -> usize {
        id.checked_sub(self.first_id).map_or(usize::MAX, |slot| slot as usize)
    }

    pub(super) fn set_order(&mut self, order: PageOrder) {
        self.order = order;
        self.version += 1;
    }

    /// Records of these warehouses are left out of every answer, as the ERP does for an appkey
    /// without rights to them.
    pub(super) fn hide_warehouses(&mut self, hidden: HashSet<String>) {
        self.hidden_warehouses = hidden;
        self.version += 1;
    }

    /// Records of these warehouses are counted and never shown, as by an ERP that checks rights only
    /// when it writes the rows.
    pub(super) fn withhold_warehouses(&mut self, unpermitted: HashSet<String>) {
        self.unpermitted_warehouses = unpermitted;
    }

    /// Whether the rows of these warehouses are left out of the page that was cut (it is short), or
    /// before it is cut (the last one is).
    pub(super) fn withhold_after_limit(&mut self, after: bool) {
        self.unpermitted_after_limit = after;
    }

    /// Whether neighbours of equal `modified` change places by chance on every query that sorts by it.
    pub(super) fn shuffle_equal(&mut self, shuffle: bool) {
        self.shuffle_equal = shuffle;
    }

    /// Stores a new record (its id is [`Self::next_id`]) or a later revision; queries see it from
    /// `visible_at_ms` on, or at once.
    pub(super) fn put(&mut self, record: R, visible_at_ms: Option<u64>) {
        let record = Arc::new(record);
        let slot = self.slot(record.id());
        if let Some(known) = self.truth.get_mut(slot) {
            *known = Arc::clone(&record);
        } else {
            self.by_number.insert(record.number().into(), record.id());
            if !record.source().is_empty() {
                self.by_source.entry(record.source().into()).or_default().push(record.id());
            }
            self.truth.push(Arc::clone(&record));
            self.visible.push(None);
        }
        match visible_at_ms {
            None => self.show(record),
            Some(at_ms) => {
                self.puts += 1;
                self.pending.insert((at_ms, self.puts), record);
            }
        }
    }

    /// Lets queries see what has become visible by now.
    pub(super) fn advance(&mut self, now_ms: u64) {
        while let Some(due) = self.pending.first_entry().filter(|due| due.key().0 <= now_ms) {
            let record = due.remove();
            self.show(record);
        }
    }

    fn show(&mut self, record: Arc<R>) {
        let slot = self.slot(record.id());
        let Some(place) = self.visible.get_mut(slot) else { return };
        if place.as_ref().is_some_and(|shown| shown.revision() >= record.revision()) {
            return;
        }
        let (id, modified, created, shipped) =
            (record.id(), record.modified(), record.created(), record.shipped());
        if let Some(before) = place.replace(record) {
            self.by_modified.remove(&(before.modified(), id));
            if let Some(at) = before.shipped() {
                self.by_shipped.remove(&(at, id));
            }
        } else {
            self.by_created.insert((created, id));
        }
        self.by_modified.insert((modified, id));
        if let Some(at) = shipped {
            self.by_shipped.insert((at, id));
        }
        self.version += 1;
    }

    fn shown(&self, id: u32) -> Option<&Arc<R>> {
        self.visible.get(self.slot(id))?.as_ref()
    }

    /// Whether a record is in a selection.
    pub(super) fn fits(selection: &Selection, record: &R) -> bool {
        (selection.statuses.is_empty() || selection.statuses.contains(&record.status()))
            && selection
                .warehouse_no
                .as_deref()
                .is_none_or(|warehouse| warehouse == record.warehouse_no())
            && selection
                .provider_no
                .as_deref()
                .is_none_or(|provider| provider == record.provider_no())
            && !selection.unseen.warehouses.iter().any(|hidden| hidden == record.warehouse_no())
            && selection.unseen.created_after.is_none_or(|moment| record.created() <= moment)
    }

    fn ids_over(&self, over: &Over) -> Vec<u32> {
        let window = |index: &BTreeSet<(i64, u32)>, from: i64, to: i64| -> Vec<u32> {
            if from > to {
                Vec::new()
            } else {
                index.range((from, 0)..=(to, u32::MAX)).map(|(_, id)| *id).collect()
            }
        };
        match over {
            Over::Modified(from, to) => window(&self.by_modified, *from, *to),
            Over::Created(from, to) => window(&self.by_created, *from, *to),
            Over::Shipped(from, to) => window(&self.by_shipped, *from, *to),
            Over::Number(number) => {
                self.by_number.get(number.as_str()).copied().into_iter().collect()
            }
            Over::NumberLike(part) => self
                .truth
                .iter()
                .filter(|record| record.number().contains(part.as_str()))
                .map(|record| record.id())
                .collect(),
            Over::Source(source) => {
                self.by_source.get(source.as_str()).cloned().unwrap_or_default()
            }
        }
    }

    fn compute(&self, selection: &Selection) -> Arc<[u32]> {
        let mut rows: Vec<&Arc<R>> = self
            .ids_over(&selection.over)
            .into_iter()
            .filter_map(|id| self.shown(id))
            .filter(|row| {
                Self::fits(selection, row) && !self.hidden_warehouses.contains(row.warehouse_no())
            })
            .collect();
        match self.order {
            PageOrder::IdAsc => rows.sort_unstable_by_key(|row| row.id()),
            PageOrder::IdDesc => rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.id())),
            PageOrder::ModifiedAsc => rows.sort_unstable_by_key(|row| (row.modified(), row.id())),
            PageOrder::ModifiedDesc => {
                rows.sort_unstable_by_key(|row| std::cmp::Reverse((row.modified(), row.id())))
            }
            PageOrder::Shuffled => {
                rows.sort_unstable_by_key(|row| mix(self.seed ^ u64::from(row.id())))
            }
        }
        rows.iter().map(|row| row.id()).collect()
    }

    /// The ids a query finds, in page order.
    pub(super) fn select(&mut self, selection: &Selection) -> Arc<[u32]> {
        if let Some((.., ids)) = self
            .results
            .iter()
            .find(|(known, version, _)| *version == self.version && known == selection)
        {
            return Arc::clone(ids);
        }
        let ids = self.compute(selection);
        // A lookup by number is cheap to repeat; only windows are worth keeping.
        if ids.len() > 1000 {
            self.results.retain(|(_, version, _)| *version == self.version);
            if self.results.len() == KEPT_RESULTS {
                self.results.pop_front();
            }
            self.results.push_back((selection.clone(), self.version, Arc::clone(&ids)));
        }
        ids
    }

    fn permitted(&self, row: &R) -> bool {
        !self.unpermitted_warehouses.contains(row.warehouse_no())
    }

    /// The same ids; of equal `modified`, neighbours have changed places by chance, so that one of
    /// them may stand on two pages and the other on none.
    fn shuffled(&mut self, ids: &[u32]) -> Vec<u32> {
        self.shuffles += 1;
        let mut rng = Rng::new(self.seed ^ mix(self.shuffles));
        let modified = |id: &u32| self.shown(*id).map(|row| row.modified());
        let mut shuffled = ids.to_vec();
        for equal in shuffled.chunk_by_mut(|one, other| modified(one) == modified(other)) {
            let begin = usize::from(rng.chance(0.5));
            for pair in equal.get_mut(begin..).unwrap_or_default().chunks_exact_mut(2) {
                if rng.chance(0.5) {
                    pair.reverse();
                }
            }
        }
        shuffled
    }

    /// One page of a query. `steady`: rows of equal `modified` keep their order.
    pub(super) fn page(
        &mut self,
        selection: &Selection,
        page_no: u64,
        page_size: u64,
        steady: bool,
    ) -> Page<R> {
        let mut ids = self.select(selection);
        let count = ids.len() as u64;
        let sorted = matches!(self.order, PageOrder::ModifiedAsc | PageOrder::ModifiedDesc);
        if self.shuffle_equal && sorted && !steady {
            ids = self.shuffled(&ids).into();
        }
        if !self.unpermitted_warehouses.is_empty() && !self.unpermitted_after_limit {
            let permitted = |id: &u32| self.shown(*id).is_some_and(|row| self.permitted(row));
            ids = ids.iter().copied().filter(permitted).collect();
        }
        let skip = usize::try_from(page_no.saturating_mul(page_size)).unwrap_or(usize::MAX);
        let take = usize::try_from(page_size).unwrap_or(usize::MAX);
        let page = ids.iter().skip(skip).take(take).filter_map(|id| self.shown(*id));
        let rows = page.filter(|row| self.permitted(row)).cloned().collect();
        Page { count, paged: ids.len() as u64, rows }
    }
}

/// One page of a query.
#[derive(Debug)]
pub(super) struct Page<R> {
    /// Records in all, those that are not shown as well.
    pub count: u64,
    /// Records that are divided into pages.
    pub paged: u64,
    pub rows: Vec<Arc<R>>,
}
