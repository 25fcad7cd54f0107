//! The rig's maps, by what they mean.

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use fault_abi::counter::{Counter, Global, TargetState};
use fault_abi::filter::Filter;
use fault_abi::key::{Address, CounterKey, Direction, IPV4_PREFIX, NetworkKey, PortKey, SPACE_BITS};
use fault_abi::line::Line;
use fault_abi::names;
use fault_abi::rule::{Binding, Config, Entry, MAX_BINDINGS, Rule};

use crate::{Rig, RigError};

/// Turns a map's error into the rig's.
fn of(name: &'static str) -> impl Fn(MapError) -> RigError {
    move |source| RigError::Map { name, source }
}

impl Rig {
    fn map(&mut self, name: &'static str) -> Result<&mut Map, RigError> {
        self.programs.map_mut(name).ok_or_else(|| RigError::Missing(name.to_owned()))
    }

    fn array<T: aya::Pod>(&mut self, name: &'static str) -> Result<Array<&mut MapData, T>, RigError> {
        Array::try_from(self.map(name)?).map_err(of(name))
    }

    fn hash<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<HashMap<&mut MapData, K, V>, RigError> {
        HashMap::try_from(self.map(name)?).map_err(of(name))
    }

    fn trie<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<LpmTrie<&mut MapData, K, V>, RigError> {
        LpmTrie::try_from(self.map(name)?).map_err(of(name))
    }

    /// An entry of the next generation, with at most [`MAX_BINDINGS`] bindings.
    fn entry(&mut self, address: Address, bindings: &[Binding]) -> Entry {
        self.generation += 1;
        let mut all = [Binding::default(); MAX_BINDINGS];
        let count = bindings.len().min(MAX_BINDINGS);
        all[..count].copy_from_slice(&bindings[..count]);
        Entry {
            address,
            prefix: 128,
            count: u16::try_from(count).unwrap_or_default(),
            generation: self.generation,
            bindings: all,
            generation_again: self.generation,
            ..Entry::default()
        }
    }

    /// Makes an address a target; `flags` are those of [`Entry::flags`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn target(&mut self, address: Address, flags: u16, bindings: &[Binding]) -> Result<(), RigError> {
        let entry = Entry { flags, ..self.entry(address, bindings) };
        self.raw_target(address, &entry)
    }

    /// Writes an entry as it is, right or wrong, where dispatchers let packets find it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn raw_target(&mut self, address: Address, entry: &Entry) -> Result<(), RigError> {
        self.filter.add(&address);
        self.write_filter()?;
        self.hash(names::TARGETS)?.insert(address, *entry, 0).map_err(of(names::TARGETS))
    }

    /// Lets packets of none but these addresses be looked up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn filter(&mut self, filter: Filter) -> Result<(), RigError> {
        *self.filter = filter;
        self.write_filter()
    }

    fn write_filter(&mut self) -> Result<(), RigError> {
        let filter = *self.filter;
        self.array(names::FILTER)?.set(0, filter, 0).map_err(of(names::FILTER))
    }

    /// Makes a port of an address a target.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn port_target(&mut self, key: PortKey, bindings: &[Binding]) -> Result<(), RigError> {
        let entry = Entry { port: key.port, protocol: key.protocol, ..self.entry(key.address, bindings) };
        self.hash(names::PORT_TARGETS)?.insert(key, entry, 0).map_err(of(names::PORT_TARGETS))
    }

    /// Makes a CIDR a target; `prefix` is that of the 16-byte address. It is looked up only while the configuration
    /// says that there are CIDRs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cidr(&mut self, address: Address, prefix: u8, bindings: &[Binding]) -> Result<(), RigError> {
        let entry = Entry { prefix, ..self.entry(address, bindings) };
        self.filter(Filter::ALL)?;
        self.trie(names::CIDRS)?
            .insert(&network(0, address, u32::from(prefix)), entry, 0)
            .map_err(of(names::CIDRS))
    }

    /// Writes a rule, which the handle of the same number stands for.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn rule(&mut self, slot: u32, rule: &Rule) -> Result<(), RigError> {
        self.array(names::RULES)?.set(slot, *rule, 0).map_err(of(names::RULES))?;
        self.handle(slot, slot + 1)
    }

    /// Lets a handle stand for the rule in the slot before `next`; 0: for none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn handle(&mut self, handle: u32, next: u32) -> Result<(), RigError> {
        self.array(names::HANDLES)?.set(handle, next, 0).map_err(of(names::HANDLES))
    }

    /// Makes counters and state of a slot, all zero.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn state(&mut self, slot: u32) -> Result<(), RigError> {
        let name = names::COUNTERS;
        let cpus = nr_cpus().map_err(|(_, error)| of(name)(MapError::IoError(error)))?;
        let mut counters: PerCpuHashMap<_, CounterKey, Counter> =
            PerCpuHashMap::try_from(self.map(name)?).map_err(of(name))?;
        for direction in Direction::ALL {
            let zeros = PerCpuValues::try_from(vec![Counter::default(); cpus])
                .map_err(|error| of(name)(MapError::IoError(error)))?;
            counters.insert(key(slot, direction), zeros, 0).map_err(of(name))?;
        }
        self.hash(names::STATE)?.insert(slot, TargetState::default(), 0).map_err(of(names::STATE))
    }

    /// Adds a CIDR to a set of peers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn peer(&mut self, set: u32, address: Address, prefix: u32) -> Result<(), RigError> {
        self.trie(names::PEERS)?.insert(&network(set, address, prefix), 1_u32, 0).map_err(of(names::PEERS))
    }

    /// Says that an address is the node's.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn node_address(&mut self, address: Address) -> Result<(), RigError> {
        self.hash(names::NODE_ADDRESSES)?.insert(address, 1_u32, 0).map_err(of(names::NODE_ADDRESSES))
    }

    /// Protects the node's conversations with this far end; `class` is of `PROTECTED_*`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn protect(&mut self, end: PortKey, class: u32) -> Result<(), RigError> {
        self.hash(names::PROTECTED)?.insert(end, class, 0).map_err(of(names::PROTECTED))
    }

    /// Protects the node's conversations with a CIDR.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn protect_cidr(&mut self, address: Address, prefix: u32) -> Result<(), RigError> {
        self.trie(names::PROTECTED_CIDRS)?
            .insert(&network(0, address, prefix), 1_u32, 0)
            .map_err(of(names::PROTECTED_CIDRS))
    }

    /// Writes the configuration.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn config(&mut self, config: &Config) -> Result<(), RigError> {
        self.array(names::CONFIG)?.set(0, *config, 0).map_err(of(names::CONFIG))
    }

    /// Says what there is of delay line and splitter, and that the line's engine lives for ever.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn line(&mut self, line: &Line) -> Result<(), RigError> {
        self.array(names::LINE)?.set(0, *line, 0).map_err(of(names::LINE))?;
        self.array(names::ENGINE)?.set(0, u64::MAX, 0).map_err(of(names::ENGINE))
    }

    /// A slot's counter, summed over all CPUs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn counter(&mut self, slot: u32, direction: Direction) -> Result<Counter, RigError> {
        let name = names::COUNTERS;
        let counters: PerCpuHashMap<_, CounterKey, Counter> =
            PerCpuHashMap::try_from(self.map(name)?).map_err(of(name))?;
        let mut sum = Counter::default();
        for counter in counters.get(&key(slot, direction), 0).map_err(of(name))?.iter() {
            sum.add(counter);
        }
        Ok(sum)
    }

    /// A counter of the node, summed over all CPUs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn global(&mut self, what: Global) -> Result<u64, RigError> {
        let name = names::GLOBAL;
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map(name)?).map_err(of(name))?;
        Ok(counters.get(&(what as u32), 0).map_err(of(name))?.iter().sum())
    }
}

/// A network's key; a prefix shorter than IPv4's is one of IPv6.
const fn network(set: u32, address: Address, prefix: u32) -> Key<NetworkKey> {
    let is_ipv4 = prefix >= IPV4_PREFIX && address.is_ipv4();
    Key::new(SPACE_BITS + prefix, NetworkKey::of_set(set, address, is_ipv4))
}

const fn key(state: u32, direction: Direction) -> CounterKey {
    CounterKey { state, direction: direction as u32 }
}
