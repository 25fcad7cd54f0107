//! What the server holds: objects, one counter of versions over all kinds, and the log that watches read. It outlives
//! the server's process, as etcd does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::change::{Outcome, Target, Write};
use super::kinds::Kind;
use super::refusal::Refusal;
use super::request::{Call, Moment};

/// Changes kept for watches; older ones are compacted.
const LOG: usize = 4096;
/// The first version. Below it everything was compacted.
const BEGINNING: u64 = 1000;

/// An object's place: resource, namespace (empty without one), name.
pub type Place = (String, String, String);

/// What happened to an object.
#[derive(Clone, Debug)]
pub struct Change {
    /// The version that it made.
    pub version: u64,
    /// Where.
    pub place: Place,
    /// Before it.
    pub before: Option<Arc<Value>>,
    /// After it, with that version; none when it was removed.
    pub after: Option<Arc<Value>>,
}

/// The store.
pub struct Store {
    state: Mutex<State>,
    latest: watch::Sender<u64>,
}

struct State {
    version: u64,
    compacted: u64,
    made: u64,
    objects: BTreeMap<Place, Arc<Value>>,
    log: VecDeque<Change>,
    witness: Option<Witness>,
}

/// Is told of each change, in order, while the store waits.
pub type Witness = Box<dyn Fn(&Change) + Send>;

/// All objects at one moment.
#[derive(Clone, Debug)]
pub struct Backup {
    version: u64,
    objects: BTreeMap<Place, Arc<Value>>,
}

/// A list, or a page of one.
#[derive(Debug)]
pub struct Listed {
    /// The objects.
    pub items: Vec<Arc<Value>>,
    /// The version that they are of.
    pub version: u64,
    /// Where the next page begins.
    pub next: Option<String>,
    /// Objects behind this page.
    pub remaining: usize,
}

/// The result of a write.
#[derive(Debug)]
pub struct Written {
    /// The object after it; what it was, when it is gone.
    pub object: Arc<Value>,
    /// It was made.
    pub created: bool,
    /// It is gone.
    pub removed: bool,
    /// The version that the write made; none when nothing changed.
    pub version: Option<u64>,
}

/// The resource part of a place.
pub fn resource(kind: &Kind) -> String {
    format!("{}/{}", kind.group, kind.plural)
}

impl Default for Store {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                version: BEGINNING,
                compacted: BEGINNING,
                made: 0,
                objects: BTreeMap::new(),
                log: VecDeque::new(),
                witness: None,
            }),
            latest: watch::Sender::new(BEGINNING),
        }
    }
}

impl Store {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of the last write.
    pub fn version(&self) -> u64 {
        self.state().version
    }

    /// The version of the last write, whenever there is one.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// From now on `witness` is told of each change.
    pub fn watch_by(&self, witness: Witness) {
        self.state().witness = Some(witness);
    }

    /// All that there is now.
    pub fn back_up(&self) -> Backup {
        let state = self.state();
        Backup { version: state.version, objects: state.objects.clone() }
    }

    /// Sets everything back, versions too; a uid is never given twice all the same. Nobody may be watching.
    pub fn restore(&self, backup: &Backup) {
        let mut state = self.state();
        state.log.clear();
        (state.version, state.compacted) = (backup.version, backup.version);
        state.objects = backup.objects.clone();
        drop(state);
        self.latest.send_replace(backup.version);
    }

    /// An object.
    pub fn get(&self, place: &Place) -> Option<Arc<Value>> {
        self.state().objects.get(place).cloned()
    }

    /// Every object of a kind.
    pub fn all(&self, kind: &Kind) -> Vec<Arc<Value>> {
        let (state, resource) = (self.state(), resource(kind));
        let ours = state.objects.iter().filter(|(place, _)| place.0 == resource);
        ours.map(|(_, object)| object.clone()).collect()
    }

    /// The version that a list of a kind is of which asks for this moment, and is `behind` by so many changes of that kind.
    ///
    /// # Errors
    /// When that moment is not known any more, or not yet.
    pub fn moment(&self, kind: &Kind, of: Moment, behind: usize) -> Result<u64, Refusal> {
        let state = self.state();
        let resource = resource(kind);
        let known = state.log.front().map_or(state.version, |oldest| oldest.version - 1);
        match of {
            Moment::NotBefore(asked) | Moment::Exactly(asked) if asked > state.version => {
                Err(Refusal::too_large(asked, state.version))
            }
            Moment::Exactly(asked) if asked < state.compacted => {
                Err(Refusal::expired(asked, state.compacted))
            }
            Moment::Exactly(asked) => Ok(asked),
            Moment::Now | Moment::NotBefore(_) => {
                let mut changes = state.log.iter().rev().filter(|change| change.place.0 == resource);
                let missed = behind.checked_sub(1).map(|last| changes.nth(last));
                let version =
                    missed.map_or(state.version, |last| last.map_or(known, |last| last.version - 1));
                let asked = if let Moment::NotBefore(asked) = of { asked } else { 0 };
                Ok(version.max(asked))
            }
        }
    }

    /// A page of what `call` asks for, as of a version that [`Self::moment`] gave: of what comes after a key, at most `limit`. A key is
    /// `namespace/name`, and orders as etcd does.
    pub fn list(&self, call: &Call, version: u64, after: Option<&str>, limit: Option<usize>) -> Listed {
        let state = self.state();
        let resource = resource(&call.kind);
        let meant = |(place, object): &(&Place, &Arc<Value>)| place.0 == resource && call.means(object);
        let then = state.undone(version);
        let unchanged = state.objects.iter().filter(|(place, _)| !then.contains_key(*place));
        let changed = then.iter().filter_map(|(place, before)| Some((*place, (*before)?)));
        let keyed = unchanged
            .chain(changed)
            .filter(meant)
            .map(|(place, object)| (format!("{}/{}", place.1, place.2), object.clone()));
        let mut items: BTreeMap<String, Arc<Value>> =
            keyed.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after)).collect();
        let end = limit.filter(|limit| *limit > 0).and_then(|limit| items.keys().nth(limit).cloned());
        let rest = end.map(|end| items.split_off(&end)).unwrap_or_default();
        let last = items.keys().last().filter(|_| !rest.is_empty());
        let next = last.map(|last| format!("{version}:{last}"));
        Listed { items: items.into_values().collect(), version, next, remaining: rest.len() }
    }

    /// The version, and the key after which a page begins.
    ///
    /// # Errors
    /// When its token is none, or what was at that version was forgotten.
    pub fn goes_on<'t>(&self, token: &'t str) -> Result<(u64, &'t str), Refusal> {
        let read = token.split_once(':').and_then(|(version, key)| Some((version.parse::<u64>().ok()?, key)));
        let (version, key) = read.ok_or_else(|| Refusal::bad("continue key is not valid"))?;
        if version < self.state().compacted {
            let message = "The provided continue parameter is too old to display a consistent list result.";
            return Err(Refusal::new(410, "Expired", message));
        }
        Ok((version, key))
    }

    /// Writes.
    ///
    /// # Errors
    /// When it is refused; nothing is changed then.
    pub fn write(&self, target: &Target<'_>, write: &Write) -> Result<Written, Refusal> {
        let mut state = self.state();
        let namespace = target.namespace.unwrap_or_default();
        let place = (resource(target.kind), namespace.to_owned(), target.name.to_owned());
        let before = state.objects.get(&place).cloned();
        let makes = before.is_none() && matches!(write, Write::Create(_) | Write::Apply { .. });
        if makes && target.namespace.is_some() && !state.has_namespace(namespace) {
            return Err(Refusal::not_found(&format!("namespaces \"{namespace}\"")));
        }
        // Its beginning is a part of names.
        let uid = format!("{:08x}-0000-4000-8000-000000000000", state.made);
        let outcome = Target { uid: &uid, ..target.clone() }.change(before.as_deref(), write)?;
        let written = match outcome {
            Outcome::Unchanged => {
                let object = before.ok_or_else(|| Refusal::not_found(target.name))?;
                return Ok(Written { object, created: false, removed: false, version: None });
            }
            Outcome::Created(object) => {
                state.made += 1;
                state.commit(place, before, Some(object))
            }
            Outcome::Changed(object) => state.commit(place, before, Some(object)),
            Outcome::Removed => state.commit(place, before, None),
        };
        let version = state.version;
        drop(state);
        self.latest.send_replace(version);
        Ok(written)
    }

    /// A name that no object of this kind has, for `generateName`.
    pub fn generated(&self, prefix: &str) -> String {
        format!("{prefix}{:05x}", self.state().made)
    }

    /// Changes of a kind after `version`, oldest first.
    ///
    /// # Errors
    /// When changes after it were compacted.
    pub fn changes(&self, kind: &Kind, version: u64) -> Result<(Vec<Change>, u64), Refusal> {
        let state = self.state();
        if version < state.compacted {
            return Err(Refusal::expired(version, state.compacted));
        }
        let resource = resource(kind);
        let begin = state.log.partition_point(|change| change.version <= version);
        let news = state.log.range(begin..).filter(|change| change.place.0 == resource);
        Ok((news.cloned().collect(), state.version))
    }

    /// Tells nobody of the changes so far any more, as after etcd's compaction. A cache may still be behind them.
    pub fn compact(&self) {
        let mut state = self.state();
        state.compacted = state.version;
    }
}

impl State {
    fn has_namespace(&self, name: &str) -> bool {
        self.objects.contains_key(&("/namespaces".to_owned(), String::new(), name.to_owned()))
    }

    /// What was at the places that were changed since a version, oldest change first.
    fn undone(&self, version: u64) -> BTreeMap<&Place, Option<&Arc<Value>>> {
        let since = self.log.partition_point(|change| change.version <= version);
        let changes = self.log.range(since..).rev();
        changes.map(|change| (&change.place, change.before.as_ref())).collect()
    }

    fn commit(&mut self, place: Place, before: Option<Arc<Value>>, after: Option<Value>) -> Written {
        self.version += 1;
        let version = self.version;
        let stamp = |mut object: Value| {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            Arc::new(object)
        };
        let after = after.map(stamp);
        match &after {
            Some(object) => self.objects.insert(place.clone(), object.clone()),
            None => self.objects.remove(&place),
        };
        // Who is told of an object's end is told its last state, under the version of its end.
        let gone = before.as_deref().cloned().map(stamp);
        let (created, removed) = (before.is_none(), after.is_none());
        let object = after.clone().or(gone).unwrap_or_default();
        let change = Change { version, place, before, after };
        if let Some(witness) = &self.witness {
            witness(&change);
        }
        self.log.push_back(change);
        if self.log.len() > LOG
            && let Some(oldest) = self.log.pop_front()
        {
            self.compacted = oldest.version;
        }
        Written { object, created, removed, version: Some(version) }
    }
}
