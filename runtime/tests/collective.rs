//! Ranks of one run: what they sum and exchange, and what they say of one that is lost.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use half::bf16;
use packscan_runtime::collective::{self, Alone, Collective, Fate, Limits, Nccl, Rendezvous, Threads, Watch, World};
use packscan_runtime::{Buffer, Cuda, Device, Dtype, Error, Result};

const SIZE: usize = 3;
const SHORT: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits { meet: Duration::from_secs(20), silence: Duration::from_secs(20), exit_after: None };

/// Numbers whose sum depends on the order of addition.
fn numbers(rank: usize, len: usize) -> Vec<f32> {
    let bits = (0..len).map(|i| (i as u32 * 7919 + rank as u32 * 104_729 + 1).wrapping_mul(2_654_435_761));
    bits.map(|bits| (bits as f32 / 2f32.powi(31) - 1.0) * 10f32.powi((bits % 7) as i32 - 3)).collect()
}

/// The sum of every rank's numbers, in the order of the ranks.
fn summed(len: usize) -> Vec<f32> {
    let mut sum = numbers(0, len);
    for rank in 1..SIZE {
        std::iter::zip(&mut sum, numbers(rank, len)).for_each(|(sum, term)| *sum += term);
    }
    sum
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Runs every rank on a thread of its own, and gives what they return in the order of the ranks.
fn on_threads<R: Send, T: Send>(ranks: Vec<R>, work: impl Fn(usize, R) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> =
            ranks.into_iter().enumerate().map(|(at, rank)| scope.spawn(move || work(at, rank))).collect();
        started.into_iter().map(|thread| thread.join().expect("a rank does not panic")).collect()
    })
}

#[test]
fn every_rank_gets_the_sum_in_the_same_bits() {
    let got = on_threads(Threads::group(SIZE), |rank, ranks| {
        assert_eq!((ranks.rank(), ranks.size()), (rank, SIZE));
        // A part in the middle: what lies beside it must stay.
        let buffer = Buffer::from_slice(&Device::Cpu, &numbers(rank, 20)).unwrap();
        ranks.all_reduce(buffer.part(3, 4, 4).unwrap()).unwrap();
        let mut losses = [0.1 * (rank + 1) as f64, f64::from(rank as u32 == 1)];
        ranks.all_reduce_f64(&mut losses).unwrap();
        ranks.wait().unwrap();
        ranks.leave().unwrap();
        (buffer.to_vec::<f32>().unwrap(), losses)
    });
    for (rank, (values, losses)) in got.into_iter().enumerate() {
        let mut expected = numbers(rank, 20);
        expected[3..19].copy_from_slice(&summed(20)[3..19]);
        assert_eq!(bits(&values), bits(&expected), "rank {rank}");
        assert_eq!(losses, [0.1 + 0.2 + 0.1 * 3.0, 1.0], "rank {rank}");
    }
}

#[test]
fn shares_are_scattered_gathered_and_broadcast() {
    let got = on_threads(Threads::group(SIZE), |rank, ranks| {
        let sums = Buffer::from_slice(&Device::Cpu, &numbers(rank, 12)).unwrap();
        ranks.reduce_scatter(sums.view()).unwrap();
        let share = ranks.share(sums.view()).unwrap().to_vec::<f32>().unwrap();
        ranks.all_gather(sums.view()).unwrap();
        let halves = Buffer::from_f32(&Device::Cpu, Dtype::Bf16, &[rank as f32; 6]).unwrap();
        ranks.all_gather(halves.view()).unwrap();
        let told = Buffer::from_slice(&Device::Cpu, &[rank as u32; 5]).unwrap();
        ranks.broadcast(told.part(1, 3, 1).unwrap(), 2).unwrap();
        let (halves, told) = (halves.to_vec::<bf16>().unwrap(), told.to_vec::<u32>().unwrap());
        ranks.leave().unwrap();
        (share, sums.to_vec::<f32>().unwrap(), halves, told)
    });
    let sum = summed(12);
    for (rank, (share, sums, halves, told)) in got.into_iter().enumerate() {
        assert_eq!(bits(&share), bits(&sum[4 * rank..4 * rank + 4]), "rank {rank}");
        assert_eq!(bits(&sums), bits(&sum), "rank {rank}");
        assert_eq!(halves, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0].map(bf16::from_f32));
        assert_eq!(told, [rank as u32, 2, 2, 2, rank as u32]);
    }
}

#[test]
fn many_rounds_do_not_mix() {
    on_threads(Threads::group(SIZE), |rank, ranks| {
        for round in 0..300 {
            let mut numbers = [(round * SIZE + rank) as f64];
            ranks.all_reduce_f64(&mut numbers).unwrap();
            assert_eq!(numbers, [(3 * round * SIZE + 3) as f64]);
        }
        ranks.leave().unwrap();
    });
}

#[test]
fn wrong_views_are_refused_before_anybody_waits() {
    let mut group = Threads::group(1);
    let one = group.remove(0);
    let ranks: [&dyn Collective; 2] = [&Alone, &one];
    let buffer = Buffer::from_slice(&Device::Cpu, &[1.0f32; 6]).unwrap();
    let halves = Buffer::from_f32(&Device::Cpu, Dtype::Bf16, &[1.0; 6]).unwrap();
    let gaps = buffer.rows(2).unwrap().columns(0, 2).unwrap();
    for ranks in ranks {
        assert!(matches!(ranks.all_reduce(gaps), Err(Error::Buffer { .. })));
        assert!(matches!(ranks.all_gather(gaps), Err(Error::Buffer { .. })));
        assert!(matches!(ranks.all_reduce(halves.view()), Err(Error::Buffer { .. })));
        let error = ranks.broadcast(buffer.view(), 1).unwrap_err().to_string();
        assert!(error.contains("root is 1"), "{error}");
        ranks.all_reduce(buffer.view()).unwrap();
        assert_eq!(buffer.to_vec::<f32>().unwrap(), [1.0; 6]);
    }
    let pair = Threads::group(2);
    let odd = pair[0].share(buffer.part(0, 5, 1).unwrap()).unwrap_err().to_string();
    assert!(odd.contains("5 elements have no 2 equal shares"), "{odd}");
}

/// Rank and fate of a lost rank.
fn lost<T: std::fmt::Debug>(result: Result<T>) -> (usize, Fate) {
    match result.expect_err("a rank is lost") {
        Error::Rank { verdict } => {
            let text = verdict.to_string();
            assert!(text.contains(&format!("rank {}", verdict.rank)), "{text}");
            (verdict.rank, verdict.fate)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_thread_that_ends_is_named_by_the_others() {
    let start = Instant::now();
    let errors = on_threads(Threads::group(SIZE), |rank, ranks| {
        ranks.progress(7).unwrap();
        ranks.all_reduce_f64(&mut [1.0]).unwrap();
        if rank == 1 {
            // As a panic would, and as an error that is passed on.
            return None;
        }
        let error = ranks.all_reduce_f64(&mut [1.0]).unwrap_err();
        assert!(error.to_string().contains("rank 1 ended") && error.to_string().contains("step 7"), "{error}");
        // It stays so.
        Some((lost(Err::<(), _>(error)), lost(ranks.wait()), lost(ranks.progress(8))))
    });
    let ended = (1, Fate::Ended);
    assert_eq!(errors, [Some((ended, ended, ended)), None, Some((ended, ended, ended))]);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_thread_that_hangs_is_named_by_all() {
    let errors = on_threads(Threads::with_silence(SIZE, SHORT), |rank, ranks| {
        ranks.all_reduce_f64(&mut [1.0]).unwrap();
        if rank == 2 {
            thread::sleep(3 * SHORT);
        }
        lost(ranks.all_reduce_f64(&mut [1.0]))
    });
    assert_eq!(errors, [(2, Fate::Hung); SIZE]);
}

#[test]
fn a_slow_thread_that_reports_progress_is_waited_for() {
    on_threads(Threads::with_silence(2, SHORT), |rank, ranks| {
        for step in 0..8 * rank as u64 {
            thread::sleep(SHORT / 4);
            ranks.progress(step).unwrap();
        }
        ranks.all_reduce_f64(&mut [1.0]).unwrap();
        ranks.leave().unwrap();
    });
}

#[test]
fn ranks_that_call_different_operations_are_told() {
    let errors = on_threads(Threads::group(2), |rank, ranks| {
        let buffer = Buffer::from_slice(&Device::Cpu, &[1.0f32; 4]).unwrap();
        match rank {
            0 => ranks.all_reduce(buffer.view()),
            _ => ranks.broadcast(buffer.view(), 1),
        }
        .unwrap_err()
        .to_string()
    });
    assert!(
        errors[0].contains("all_reduce of 16 bytes") && errors[0].contains("rank 1 called broadcast"),
        "{errors:?}"
    );
    assert!(errors[1].contains("rank 0 called all_reduce"), "{errors:?}");
}

/// Ranks that meet on this host, at a port that is free and that no other test of this process has. Nobody else is asked.
fn worlds(size: usize) -> Vec<World> {
    static TAKEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().expect("no test panics here");
    let port = loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port() - 1;
        if port <= u16::MAX - Rendezvous::PORTS && taken.iter().all(|other| other.abs_diff(port) > Rendezvous::PORTS) {
            break port;
        }
    };
    taken.push(port);
    let rendezvous = Rendezvous { host: Ipv4Addr::LOCALHOST.to_string(), port };
    (0..size).map(|rank| World { rank, size, local_rank: rank, rendezvous: rendezvous.clone() }).collect()
}

fn meet(world: &World, limits: Limits) -> Result<(Watch, Vec<u8>)> {
    Watch::meet(world, limits, || Ok(b"the id".to_vec()))
}

/// What a rank hears while it waits for another.
fn until_lost(watch: &Watch) -> (usize, Fate) {
    let start = Instant::now();
    while watch.check().is_ok() {
        assert!(start.elapsed() < Duration::from_secs(15), "nobody was named");
        thread::sleep(Duration::from_millis(5));
    }
    lost(watch.check())
}

#[test]
fn ranks_meet_pass_a_message_and_leave_together() {
    on_threads(worlds(SIZE), |rank, world| {
        if rank == 0 {
            // The others must try again until somebody listens.
            thread::sleep(Duration::from_millis(200));
        }
        let (watch, message) = meet(&world, LIMITS).unwrap();
        assert_eq!(message, b"the id");
        watch.enter().unwrap();
        watch.progress(3).unwrap();
        watch.leave().unwrap();
        watch.check().unwrap();
    });
}

#[test]
fn a_port_that_another_program_holds_is_passed_over() {
    let worlds = worlds(2);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, worlds[0].rendezvous.port + 1)).expect("it was free just now");
    thread::spawn(move || taken.incoming().for_each(drop));
    on_threads(worlds, |_, world| {
        let (watch, message) = meet(&world, LIMITS).unwrap();
        assert_eq!(message, b"the id");
        watch.leave().unwrap();
    });
}

#[test]
fn a_rank_that_never_comes_is_named_by_those_that_did() {
    let mut worlds = worlds(SIZE);
    worlds.truncate(2);
    let limits = Limits { meet: SHORT, ..LIMITS };
    let errors = on_threads(worlds, |_, world| meet(&world, limits).map(drop));
    assert_eq!(errors.into_iter().map(lost).collect::<Vec<_>>(), [(2, Fate::Absent); 2]);
}

#[test]
fn a_meeting_place_without_rank_0_is_named() {
    let world = worlds(2).remove(1);
    let error = meet(&world, Limits { meet: SHORT, ..LIMITS }).map(drop).unwrap_err().to_string();
    for part in ["rank 1 of 2", "127.0.0.1", &(world.rendezvous.port + 1).to_string(), "rank 0 did not answer"] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn a_rank_whose_connection_closes_is_named_by_the_others() {
    for gone in 0..SIZE {
        let errors = on_threads(worlds(SIZE), |rank, world| {
            let (watch, _) = meet(&world, LIMITS).unwrap();
            (rank != gone).then(|| until_lost(&watch))
        });
        for (rank, error) in errors.into_iter().enumerate() {
            assert_eq!(error, (rank != gone).then_some((gone, Fate::Ended)), "rank {rank}");
        }
    }
}

#[test]
fn a_rank_that_does_not_advance_is_named_by_all() {
    on_threads((0..SIZE).collect(), |_, hung| {
        let errors = on_threads(worlds(SIZE), |rank, world| {
            let (watch, _) = meet(&world, Limits { silence: SHORT, ..LIMITS }).unwrap();
            watch.enter().unwrap();
            if rank != hung {
                watch.enter().unwrap();
            }
            until_lost(&watch)
        });
        assert_eq!(errors, [(hung, Fate::Hung); SIZE]);
    });
}

/// The role of this process, if it is one that a test below has started.
const ROLE: &str = "PACKSCAN_TEST_ROLE";

/// What such a process does.
#[test]
fn a_rank_in_a_process_of_its_own() {
    let Some(role) = std::env::var(ROLE).ok() else { return println!("skipped: other tests start it") };
    let world = World::from_environment().unwrap().expect("it was given a world");
    let join = || {
        let device = world.gpu().unwrap();
        let nccl = Nccl::join(&device, &world, LIMITS).unwrap();
        (device, nccl)
    };
    match role.as_str() {
        // It sits where no verdict reaches it.
        "sits" => {
            let limits = Limits { exit_after: Some(Duration::from_millis(100)), ..LIMITS };
            let (_watch, _) = meet(&world, limits).unwrap();
            println!("met");
            thread::sleep(Duration::from_secs(60));
        }
        "works" => {
            let (device, nccl) = join();
            check_nccl(&device, &nccl);
        }
        "loses rank 1" => {
            let (device, nccl) = join();
            let buffer = Buffer::from_slice(&device, &whole(world.rank, 1000)).unwrap();
            nccl.all_reduce_f64(&mut [1.0]).unwrap();
            if world.rank == 1 {
                std::process::exit(0);
            }
            let named = nccl.all_reduce(buffer.view()).and_then(|()| nccl.all_reduce_f64(&mut [1.0]));
            assert_eq!(lost(named), (1, Fate::Ended));
            // What waits for the lost rank was aborted, so the GPU goes on.
            device.synchronize().unwrap();
        }
        other => panic!("{other}"),
    }
}

/// Starts a process for a rank, under the variables of torchrun.
fn process(world: &World, role: &str) -> Child {
    let started = Command::new(std::env::current_exe().expect("this program has a file"))
        .args(["--exact", "a_rank_in_a_process_of_its_own", "--nocapture"])
        .env(ROLE, role)
        .envs([("RANK", world.rank.to_string()), ("WORLD_SIZE", world.size.to_string())])
        .envs([("LOCAL_RANK", world.local_rank.to_string()), ("MASTER_ADDR", world.rendezvous.host.clone())])
        .env("MASTER_PORT", world.rendezvous.port.to_string())
        .env_remove("LOCAL_WORLD_SIZE")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    started.expect("this program can be started")
}

#[test]
fn a_process_that_is_killed_ends_the_others_with_its_name() {
    let mut children: Vec<Child> = worlds(SIZE).iter().map(|world| process(world, "sits")).collect();
    for child in &mut children {
        let output = BufReader::new(child.stdout.as_mut().expect("it is piped"));
        assert!(output.lines().any(|line| line.expect("text").contains("met")));
    }
    children[2].kill().expect("it runs");
    for (rank, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stderr);
        if rank != 2 {
            assert_eq!(output.status.code(), Some(1), "rank {rank}: {text}");
            assert!(text.contains(&format!("rank {rank} ends: rank 2 ended")), "{text}");
        }
    }
}

#[test]
fn processes_on_the_cpu_are_refused() {
    let world = worlds(2).remove(0);
    let error = collective::join(&Device::Cpu, Some(&world)).map(drop).unwrap_err().to_string();
    assert!(error.contains("the CPU of one of 2 ranks") && error.contains("--device cuda"), "{error}");
    let alone = collective::join(&Device::Cpu, None).unwrap();
    assert_eq!((alone.rank(), alone.size()), (0, 1));
}

/// Whole numbers, whose sums are exact in every order.
fn whole(rank: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 97 * (rank + 1)) as f32).collect()
}

/// Every operation, three times over.
fn check_nccl(device: &Device, nccl: &Nccl) {
    let (rank, size) = (nccl.rank(), nccl.size());
    let len = size << 18;
    let sum: Vec<f32> = (0..len).map(|i| (0..size).map(|rank| (i % 97 * (rank + 1)) as f32).sum()).collect();
    let all = || (0..3).map(|_| Buffer::from_slice(device, &whole(rank, len + 1)).unwrap()).collect::<Vec<_>>();
    let (reduced, scattered, gathered, told) = (all(), all(), all(), all());
    let dropped = all();
    nccl.all_reduce_f64(&mut [0.0]).unwrap();
    for (step, unused) in dropped.into_iter().enumerate() {
        let part = |buffers: &'static str, buffer: &Buffer| {
            let values = buffer.part(1, len, 1).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(buffer.part(0, 1, 1).unwrap().to_vec::<f32>().unwrap(), [0.0], "{buffers}");
            values
        };
        nccl.progress(step as u64).unwrap();
        nccl.all_reduce(reduced[step].part(0, len, 1).unwrap()).unwrap();
        nccl.reduce_scatter(scattered[step].part(0, len, 1).unwrap()).unwrap();
        // Memory that an operation uses lives as long as it does.
        nccl.all_reduce(unused.view()).unwrap();
        drop(unused);
        nccl.all_gather(gathered[step].part(1, len, 1).unwrap()).unwrap();
        nccl.broadcast(told[step].part(1, len, 1).unwrap(), size - 1).unwrap();
        nccl.wait().unwrap();
        assert_eq!(reduced[step].part(0, len, 1).unwrap().to_vec::<f32>().unwrap(), sum);
        let share = nccl.share(scattered[step].part(0, len, 1).unwrap()).unwrap();
        assert_eq!(share.to_vec::<f32>().unwrap(), sum[rank * len / size..(rank + 1) * len / size]);
        let expected: Vec<f32> = (0..size)
            .flat_map(|of| whole(of, len + 1)[1 + of * len / size..1 + (of + 1) * len / size].to_vec())
            .collect();
        assert_eq!(part("gathered", &gathered[step]), expected);
        assert_eq!(part("told", &told[step]), whole(size - 1, len + 1)[1..]);
        // More numbers than are summed at a time.
        let mut losses: Vec<f64> = (0..1300).map(|i| f64::from(i) / 4.0).collect();
        let expected: Vec<f64> = losses.iter().map(|loss| loss * size as f64).collect();
        nccl.all_reduce_f64(&mut losses).unwrap();
        assert_eq!(losses, expected);
        for buffer in [&reduced[step], &scattered[step], &gathered[step], &told[step]] {
            assert!(buffer.fence_holds().unwrap());
        }
    }
    nccl.leave().unwrap();
}

#[test]
fn nccl_works_with_a_world_of_one() {
    let joined = Device::cuda(0).and_then(|device| Ok((device.clone(), Nccl::join(&device, &worlds(1)[0], LIMITS)?)));
    match joined {
        Ok((device, nccl)) => {
            assert_eq!((nccl.rank(), nccl.size()), (0, 1));
            check_nccl(&device, &nccl);
        }
        Err(error @ (Error::NoGpu { .. } | Error::NoNccl { .. })) => println!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn nccl_works_with_every_gpu_and_names_a_lost_rank() {
    let size = Cuda::count();
    if size < 2 {
        return println!("skipped: it needs two GPUs, and there are {size}");
    }
    for role in ["works", "loses rank 1"] {
        let children: Vec<Child> = worlds(size).iter().map(|world| process(world, role)).collect();
        for (rank, child) in children.into_iter().enumerate() {
            let output = child.wait_with_output().expect("it ends");
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{role}, rank {rank}: {text}");
        }
    }
}
