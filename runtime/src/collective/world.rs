//! [`World`]: which rank of how many this process is, as its launcher says.

use std::env;
use std::fmt;

use crate::{Cuda, Device, Error, Result};

/// A process among those of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Its number, from 0.
    pub rank: usize,
    /// Processes in the run.
    pub size: usize,
    /// Its number among the processes of its host, from 0.
    pub local_rank: usize,
    /// Where rank 0 waits for the others.
    pub rendezvous: Rendezvous,
}

/// Where the processes of a run meet: rank 0 listens on the first free of the [`PORTS`](Self::PORTS) ports after `port`.
///
/// `port` itself is left alone, for under torchrun its own store listens there. A port taken by another program is passed over by both
/// sides, since whoever answers must name the run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rendezvous {
    /// The host of rank 0, a name or an address. Where it is this host's loopback, rank 0 listens there alone.
    pub host: String,
    /// `MASTER_PORT`, or one derived from what the launcher says of the run.
    pub port: u16,
}

impl Rendezvous {
    /// Ports after `port` that are tried.
    pub const PORTS: u16 = 8;
}

impl fmt::Display for Rendezvous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ports {} to {}", self.host, self.port + 1, self.port + Self::PORTS)
    }
}

/// The variables of a launcher.
struct Launcher {
    name: &'static str,
    rank: &'static str,
    size: &'static str,
    /// Any one of them.
    local_rank: &'static [&'static str],
    local_size: &'static str,
    /// Whether `size` alone means nothing: an allocation of Slurm's, in which no step was started.
    size_alone_is_nothing: bool,
}

/// The launchers, the innermost first: torchrun may be started by mpirun or srun, and mpirun in a job of Slurm's, and then the variables
/// of both are there.
const LAUNCHERS: [Launcher; 4] = [
    Launcher {
        name: "torchrun",
        rank: "RANK",
        size: "WORLD_SIZE",
        local_rank: &["LOCAL_RANK"],
        local_size: "LOCAL_WORLD_SIZE",
        size_alone_is_nothing: false,
    },
    Launcher {
        name: "mpirun of Open MPI",
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: &["OMPI_COMM_WORLD_LOCAL_RANK"],
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
        size_alone_is_nothing: false,
    },
    Launcher {
        name: "mpirun of MPICH or Intel MPI",
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: &["MPI_LOCALRANKID", "PMI_LOCAL_RANK"],
        local_size: "MPI_LOCALNRANKS",
        size_alone_is_nothing: false,
    },
    Launcher {
        name: "srun",
        rank: "SLURM_PROCID",
        size: "SLURM_NTASKS",
        local_rank: &["SLURM_LOCALID"],
        local_size: "",
        size_alone_is_nothing: true,
    },
];

/// What tells runs on one host apart where no port is given, the first that is set.
const RUN_NAMES: [&str; 4] = ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID", "SLURM_JOB_ID"];
/// The port of a run that has no name.
const DEFAULT_PORT: u16 = 29_400;

impl World {
    /// What the launcher of this process says: torchrun, mpirun or srun through their environment variables; `None` without one.
    ///
    /// `MASTER_ADDR` and `MASTER_PORT` name the meeting place. torchrun sets them. Where they are missing, the host is the first of
    /// `SLURM_STEP_NODELIST` or `SLURM_NODELIST` under srun and this one under mpirun, which then must have started every rank here; and the port is derived
    /// from the launcher's name of the run, so that two runs on one host do not meet.
    ///
    /// # Errors
    /// [`Error::Launcher`] for variables that are half set, no numbers or contradict each other, with their names.
    pub fn from_environment() -> Result<Option<World>> {
        // A value that is no text is no number either, and says so.
        World::from_variables(|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// As [`from_environment`](Self::from_environment), from variables that `get` knows. An empty one counts as not set.
    ///
    /// # Errors
    /// [`Error::Launcher`].
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<World>> {
        let get = |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let Some(launcher) = LAUNCHERS.iter().find(|launcher| launcher.is_here(&get)) else { return Ok(None) };
        let local_rank_name = launcher.local_rank.iter().find(|name| get(name).is_some());
        let local_rank_name = *local_rank_name.unwrap_or(&launcher.local_rank[0]);
        let rank = launcher.number(launcher.rank, &get)?;
        let size = launcher.number(launcher.size, &get)?;
        let local_rank = launcher.number(local_rank_name, &get)?;
        let local_size = match get(launcher.local_size) {
            Some(_) => Some(launcher.number(launcher.local_size, &get)?),
            None => None,
        };
        let contradiction = |left: (&str, usize), right: (&str, usize), rule: &str| {
            let got = format!("{}={} and {}={}", left.0, left.1, right.0, right.1);
            Err(Error::Launcher { launcher: launcher.name, got, rule: rule.to_owned() })
        };
        if rank >= size {
            return contradiction((launcher.rank, rank), (launcher.size, size), "ranks count from 0 to size - 1");
        }
        if local_rank > rank {
            let rule = "a host cannot have more ranks than there are up to this one";
            return contradiction((local_rank_name, local_rank), (launcher.rank, rank), rule);
        }
        if let Some(local_size) = local_size.filter(|&local_size| local_rank >= local_size || local_size > size) {
            let left = (local_rank_name, local_rank);
            let rule = "a host has at least one rank more than its highest and at most all of them";
            return contradiction(left, (launcher.local_size, local_size), rule);
        }
        let rendezvous = launcher.rendezvous(size, local_size, &get)?;
        Ok(Some(World { rank, size, local_rank, rendezvous }))
    }

    /// The GPU of this rank: the one with the number of its local rank, or the only one where the launcher shows each rank its own.
    ///
    /// # Errors
    /// [`Error::NoGpu`].
    pub fn gpu(&self) -> Result<Device> {
        Device::cuda(if Cuda::count() == 1 { 0 } else { self.local_rank })
    }
}

impl Launcher {
    fn is_here(&self, get: &impl Fn(&str) -> Option<String>) -> bool {
        get(self.rank).is_some() || (!self.size_alone_is_nothing && get(self.size).is_some())
    }

    fn wrong(&self, got: String, rule: impl Into<String>) -> Error {
        Error::Launcher { launcher: self.name, got, rule: rule.into() }
    }

    fn number(&self, name: &str, get: &impl Fn(&str) -> Option<String>) -> Result<usize> {
        let Some(value) = get(name) else {
            let set = [self.rank, self.size].into_iter().chain(self.local_rank.iter().copied());
            let set: Vec<&str> = set.filter(|name| get(name).is_some()).collect();
            let rule =
                format!("start every rank with {}, or unset {} to run as a single process", self.name, set.join(", "));
            return Err(self.wrong(format!("{} is set but {name} is not", set.join(", ")), rule));
        };
        value.parse::<u32>().map(|number| number as usize).map_err(|_| {
            self.wrong(format!("{name}={value:?}"), "it must be a whole number; unset it to run as a single process")
        })
    }

    fn rendezvous(
        &self,
        size: usize,
        local_size: Option<usize>,
        get: &impl Fn(&str) -> Option<String>,
    ) -> Result<Rendezvous> {
        let (host, port) = (get("MASTER_ADDR"), get("MASTER_PORT"));
        if self.name == "torchrun"
            && let Some(missing) = [("MASTER_ADDR", &host), ("MASTER_PORT", &port)].iter().find(|m| m.1.is_none())
        {
            let got = format!("{}, {} are set but {} is not", self.rank, self.size, missing.0);
            return Err(
                self.wrong(got, "torchrun sets them all; set MASTER_ADDR and MASTER_PORT to a free port of rank 0")
            );
        }
        let port = match port {
            Some(text) => {
                let highest = u16::MAX - Rendezvous::PORTS;
                let port = text.parse::<u16>().ok().filter(|&port| port > 0 && port <= highest);
                let rule = format!("it must be from 1 to {highest}: the {} ports after it are used", Rendezvous::PORTS);
                port.ok_or_else(|| self.wrong(format!("MASTER_PORT={text:?}"), rule))?
            }
            None => RUN_NAMES.iter().find_map(|name| get(name)).map_or(DEFAULT_PORT, |run| port_of(&run)),
        };
        // A step may have some hosts of its job only.
        let nodes = get("SLURM_STEP_NODELIST").or_else(|| get("SLURM_NODELIST")).filter(|_| self.name == "srun");
        let first_node = || nodes.as_deref().map(first_host);
        if let (None, None, Some(local)) = (&host, first_node(), local_size.filter(|&local| local < size)) {
            let got = format!("{}={size} and {}={local}, but MASTER_ADDR is not set", self.size, self.local_size);
            return Err(
                self.wrong(got, "ranks on several hosts must be told where they meet; set it to the host of rank 0")
            );
        }
        let host = host.or_else(first_node).unwrap_or_else(|| "localhost".to_owned());
        Ok(Rendezvous { host, port })
    }
}

/// A port from 20,000 to 29,999 for a run of this name (FNV-1a), the same in every process.
fn port_of(run: &str) -> u16 {
    let hash =
        run.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    20_000 + (hash % 1000) as u16 * 10
}

/// The first host of a list as Slurm writes it: `gpu[03-07,9],cpu1` starts with `gpu03`.
fn first_host(nodes: &str) -> String {
    let end = nodes.find([',', '[']).unwrap_or(nodes.len());
    let (name, rest) = nodes.split_at(end);
    match rest.strip_prefix('[') {
        Some(numbers) => {
            let first = &numbers[..numbers.find([',', '-', ']']).unwrap_or(numbers.len())];
            let after = rest.find(']').map_or("", |close| &rest[close + 1..]);
            // Slurm may write a name on after its numbers.
            let after = &after[..after.find([',', '[']).unwrap_or(after.len())];
            format!("{name}{first}{after}")
        }
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(variables: &[(&str, &str)]) -> Result<Option<World>> {
        World::from_variables(|name| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_owned()))
    }

    fn expected(rank: usize, size: usize, local_rank: usize, host: &str, port: u16) -> World {
        World { rank, size, local_rank, rendezvous: Rendezvous { host: host.to_owned(), port } }
    }

    const TORCHRUN: [(&str, &str); 5] =
        [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "node1"), ("MASTER_PORT", "29500")];
    const OPEN_MPI: [(&str, &str); 4] = [
        ("OMPI_COMM_WORLD_RANK", "2"),
        ("OMPI_COMM_WORLD_SIZE", "4"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "2"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
    ];
    const MPICH: [(&str, &str); 3] = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "1")];
    const SLURM: [(&str, &str); 5] = [
        ("SLURM_PROCID", "3"),
        ("SLURM_NTASKS", "4"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_NODELIST", "gpu[03-04,9]"),
        ("SLURM_JOB_ID", "77"),
    ];

    #[test]
    fn every_launcher_is_understood() {
        assert_eq!(world(&[]).unwrap(), None);
        assert_eq!(world(&TORCHRUN).unwrap(), Some(expected(5, 8, 1, "node1", 29_500)));
        assert_eq!(world(&OPEN_MPI).unwrap(), Some(expected(2, 4, 2, "localhost", DEFAULT_PORT)));
        assert_eq!(world(&MPICH).unwrap(), Some(expected(1, 2, 1, "localhost", DEFAULT_PORT)));
        assert_eq!(world(&SLURM).unwrap(), Some(expected(3, 4, 1, "gpu03", port_of("77"))));
        // An allocation without a step, and a meeting place without a launcher, are no run.
        assert_eq!(world(&[("SLURM_NTASKS", "4"), ("SLURM_JOB_ID", "77")]).unwrap(), None);
        assert_eq!(world(&[("MASTER_ADDR", "node1"), ("MASTER_PORT", "1")]).unwrap(), None);
        assert_eq!(world(&[("RANK", ""), ("WORLD_SIZE", " ")]).unwrap(), None);
    }

    #[test]
    fn the_innermost_launcher_counts_and_the_meeting_place_can_be_named() {
        assert_eq!(world(&[&TORCHRUN[..], &OPEN_MPI, &SLURM].concat()).unwrap().unwrap().rank, 5);
        let inside = world(&[&OPEN_MPI[..], &SLURM].concat()).unwrap().unwrap();
        assert_eq!(inside, expected(2, 4, 2, "localhost", port_of("77")));
        let place = [("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "4000")];
        assert_eq!(world(&[&MPICH[..], &place].concat()).unwrap(), Some(expected(1, 2, 1, "10.0.0.1", 4000)));
        let step = [("SLURM_STEP_NODELIST", "gpu9"), ("PMIX_NAMESPACE", "slurm.pmix.77.1")];
        let in_step = world(&[&SLURM[..], &step].concat()).unwrap();
        assert_eq!(in_step, Some(expected(3, 4, 1, "gpu9", port_of("slurm.pmix.77.1"))));
        assert_eq!(world(&[&SLURM[..], &place].concat()).unwrap(), Some(expected(3, 4, 1, "10.0.0.1", 4000)));
    }

    #[test]
    fn half_set_variables_are_named() {
        let required: [(&[(&str, &str)], usize); 4] = [(&TORCHRUN, 5), (&OPEN_MPI, 3), (&MPICH, 3), (&SLURM, 3)];
        for (all, required) in required {
            for missing in 0..required {
                // Slurm's size alone is an allocation.
                if all[0].0 == "SLURM_PROCID" && missing == 0 {
                    continue;
                }
                let mut some = all.to_vec();
                let (name, _) = some.remove(missing);
                let error = world(&some).unwrap_err().to_string();
                assert!(error.contains(name) && error.contains(some[0].0), "without {name}: {error}");
            }
        }
    }

    #[test]
    fn contradictions_and_values_that_are_no_numbers_are_named() {
        let with = |all: &[(&'static str, &'static str)], name: &'static str, value: &'static str| {
            let mut some: Vec<_> = all.iter().copied().filter(|v| v.0 != name).collect();
            some.push((name, value));
            world(&some).unwrap_err().to_string()
        };
        for (error, named) in [
            (with(&TORCHRUN, "RANK", "8"), &["RANK=8", "WORLD_SIZE=8"][..]),
            (with(&TORCHRUN, "WORLD_SIZE", "0"), &["RANK=5", "WORLD_SIZE=0"]),
            (with(&TORCHRUN, "LOCAL_RANK", "6"), &["LOCAL_RANK=6", "RANK=5"]),
            (with(&TORCHRUN, "LOCAL_WORLD_SIZE", "1"), &["LOCAL_RANK=1", "LOCAL_WORLD_SIZE=1"]),
            (with(&TORCHRUN, "RANK", "-1"), &["RANK=\"-1\""]),
            (with(&TORCHRUN, "MASTER_PORT", "65535"), &["MASTER_PORT", "65527"]),
            (with(&OPEN_MPI, "OMPI_COMM_WORLD_SIZE", "8"), &["OMPI_COMM_WORLD_SIZE=8", "MASTER_ADDR"]),
            (with(&SLURM, "SLURM_LOCALID", "one"), &["SLURM_LOCALID=\"one\""]),
        ] {
            for name in named {
                assert!(error.contains(name), "{error:?} does not say {name}");
            }
        }
    }

    #[test]
    fn a_node_list_starts_with_its_first_host() {
        for (list, first) in [
            ("node7", "node7"),
            ("a,b", "a"),
            ("gpu[3-5]", "gpu3"),
            ("gpu[03,05],cpu1", "gpu03"),
            ("n[1-2]-ib,m", "n1-ib"),
        ] {
            assert_eq!(first_host(list), first);
        }
    }

    #[test]
    fn derived_ports_leave_room_for_those_after_them() {
        for run in ["1", "2", "prte-node-1234@1", ""] {
            let port = port_of(run);
            assert!((20_000..30_000).contains(&port) && port.is_multiple_of(10) && port_of(run) == port);
        }
        assert_ne!(port_of("1"), port_of("2"));
    }
}
