//! Sets of owners, interned: a register lane or a byte of memory carries the number of its set.

use std::collections::HashMap;

/// The number of a set; 0 is the empty set.
pub(crate) type Origin = u16;

/// In a register's summary: the lanes do not all carry the same set.
pub(crate) const MIXED: Origin = u16::MAX;

/// The table of sets.
pub(crate) struct Sets {
    /// Sorted owners of each set.
    sets: Vec<Box<[u32]>>,
    numbers: HashMap<Box<[u32]>, Origin>,
    unions: HashMap<(Origin, Origin), Origin>,
    /// The latest unions, by a hash of the pair.
    recent: Box<[(Origin, Origin, Origin); 256]>,
    /// Whether numbers ran out; the launch ends with an error then.
    pub overflow: bool,
}

impl Sets {
    pub fn new() -> Self {
        let empty: Box<[u32]> = Box::new([]);
        Sets {
            sets: vec![empty.clone()],
            numbers: HashMap::from([(empty, 0)]),
            unions: HashMap::new(),
            recent: Box::new([(0, 0, 0); 256]),
            overflow: false,
        }
    }

    /// The set of one owner.
    pub fn single(&mut self, owner: u32) -> Origin {
        self.intern(Box::new([owner]))
    }

    fn intern(&mut self, set: Box<[u32]>) -> Origin {
        if let Some(&number) = self.numbers.get(&set) {
            return number;
        }
        if self.sets.len() >= MIXED as usize {
            self.overflow = true;
            return 0;
        }
        let number = self.sets.len() as Origin;
        self.sets.push(set.clone());
        self.numbers.insert(set, number);
        number
    }

    /// The union of two sets.
    #[inline]
    pub fn join(&mut self, a: Origin, b: Origin) -> Origin {
        if a == b || b == 0 {
            return a;
        }
        if a == 0 {
            return b;
        }
        let slot = (a as usize).wrapping_mul(31).wrapping_add(b as usize) % 256;
        let (x, y, union) = self.recent[slot];
        if (x, y) == (a, b) {
            return union;
        }
        let union = self.unite(a.min(b), a.max(b));
        self.recent[slot] = (a, b, union);
        union
    }

    fn unite(&mut self, a: Origin, b: Origin) -> Origin {
        if let Some(&union) = self.unions.get(&(a, b)) {
            return union;
        }
        let mut owners: Vec<u32> = self.sets[a as usize].iter().chain(&*self.sets[b as usize]).copied().collect();
        owners.sort_unstable();
        owners.dedup();
        let union = self.intern(owners.into());
        self.unions.insert((a, b), union);
        union
    }

    /// Whether every owner of the set is `owner`.
    pub fn within(&self, set: Origin, owner: u32) -> bool {
        self.sets[set as usize].iter().all(|&found| found == owner)
    }

    /// The set in words.
    pub fn name(&self, set: Origin) -> String {
        let owners = &self.sets[set as usize];
        let shown: Vec<String> = owners.iter().take(8).map(u32::to_string).collect();
        let more = if owners.len() > 8 { format!(" and {} more", owners.len() - 8) } else { String::new() };
        format!("owners {{{}{more}}}", shown.join(", "))
    }
}
