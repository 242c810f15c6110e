//! What a pack accepts, what it refuses and in which words.

use packscan_runtime::{Device, DevicePacked, Packed, Slots};

fn error(result: packscan_runtime::Result<Packed>) -> String {
    result.expect_err("this is no pack").to_string()
}

#[test]
fn every_way_to_state_a_pack_agrees() {
    let packed = Packed::from_lengths(&[3, 1, 2]).unwrap();
    assert_eq!(packed, Packed::from_cu_seqlens(&[0, 3, 4, 6], 6).unwrap());
    assert_eq!(packed, Packed::from_position_indices(&[0, 1, 2, 0, 0, 1]).unwrap());
    assert_eq!(packed, Packed::from_seq_idx(&[0, 0, 0, 1, 2, 2]).unwrap());
    assert_eq!((packed.tokens(), packed.sequences(), packed.lengths()), (6, 3, vec![3, 1, 2]));
    assert_eq!(packed.seq_idx(), [0, 0, 0, 1, 2, 2]);
}

#[test]
fn a_step_of_generation_is_one_token_each() {
    let step = Packed::one_token_each(&[true, false, true]).unwrap();
    assert_eq!(step, Packed::from_lengths(&[1; 3]).unwrap().with_continued(&[true, false, true]).unwrap());
    let none = error(Packed::one_token_each(&[]));
    assert!(none.contains("at least one sequence"), "{none}");
}

#[test]
fn segments_are_counted_from_the_start_of_their_sequence() {
    let packed = Packed::from_lengths(&[5, 0, 2, 4]).unwrap().with_continued(&[false, true, true, false]).unwrap();
    let (segments, firsts) = packed.segments(2);
    assert_eq!(segments.lengths(), [2, 2, 1, 0, 2, 2, 2]);
    assert_eq!(segments.continued(), [false, true, true, true, true, false, true]);
    assert_eq!(firsts, [0, 3, 4, 5, 7]);
    assert_eq!(packed.segments(usize::MAX).0, packed);
    assert_eq!(packed.segments(0).0.sequences(), 12);
}

#[test]
fn empty_sequences_are_legal() {
    let packed = Packed::from_cu_seqlens(&[0, 0, 2, 2, 2], 2).unwrap();
    assert_eq!(packed.lengths(), [0, 2, 0, 0]);
    assert_eq!(packed.seq_idx(), [1, 1]);
    assert_eq!(Packed::from_seq_idx(&[1, 1]).unwrap().lengths(), [0, 2]);
    assert_eq!(Packed::from_lengths(&[0]).unwrap().tokens(), 0);
}

#[test]
fn bad_boundaries_are_refused_by_name() {
    let starts = error(Packed::from_cu_seqlens(&[1, 3], 3));
    assert!(starts.contains("cu_seqlens") && starts.contains("starts at 1"), "{starts}");
    let decreases = error(Packed::from_cu_seqlens(&[0, 5, 3], 3));
    assert!(decreases.contains("decreases from 5 to 3 at entry 2"), "{decreases}");
    let ends = error(Packed::from_cu_seqlens(&[0, 3], 4));
    assert!(ends.contains("ends at 3") && ends.contains("4 tokens"), "{ends}");
    for short in [&[][..], &[0]] {
        let short = error(Packed::from_cu_seqlens(short, 0));
        assert!(short.contains("S + 1"), "{short}");
    }
    let long = error(Packed::from_lengths(&[1 << 30, 1 << 30, 1]));
    assert!(long.contains("lengths") && long.contains("split it"), "{long}");
    let huge = error(Packed::from_lengths(&[usize::MAX, 1]));
    assert!(huge.contains("sequence 0"), "{huge}");
    let none = error(Packed::from_lengths(&[]));
    assert!(none.contains("at least one sequence"), "{none}");
}

#[test]
fn bad_indices_are_refused_by_token() {
    let gap = error(Packed::from_position_indices(&[0, 1, 3]));
    assert!(
        gap.contains("position_indices") && gap.contains("token 2 has position 3") && gap.contains("0 or 2"),
        "{gap}"
    );
    let start = error(Packed::from_position_indices(&[1]));
    assert!(start.contains("token 0"), "{start}");
    let back = error(Packed::from_seq_idx(&[0, 1, 0]));
    assert!(back.contains("seq_idx") && back.contains("token 2"), "{back}");
    let marks = error(Packed::from_lengths(&[1, 2]).unwrap().with_continued(&[true]));
    assert!(marks.contains("continued") && marks.contains("2 sequences"), "{marks}");
}

/// The tokens of each group, and that every sequence is in one run of one group, runs in the order of their sequences.
fn tokens_of_groups(packed: &Packed, groups: usize) -> Vec<usize> {
    let shared_out = packed.groups(groups);
    assert_eq!(shared_out.count(), groups);
    let mut seen = vec![0; packed.sequences()];
    let tokens = (0..groups).map(|g| {
        let runs = shared_out.runs_of(g);
        assert!(runs.windows(2).all(|pair| pair[0][1] < pair[1][0]), "neighbours are one run: {runs:?}");
        let sequences: Vec<usize> = runs.iter().flat_map(|&[first, end]| first as usize..end as usize).collect();
        sequences.iter().for_each(|&s| seen[s] += 1);
        sequences.iter().map(|&s| packed.range(s).len()).sum()
    });
    let tokens = tokens.collect();
    assert!(seen.iter().all(|&times| times == 1), "{seen:?}");
    tokens
}

#[test]
fn groups_share_whole_sequences_out() {
    let equal = Packed::from_lengths(&[10, 10, 10, 10, 0, 10, 10]).unwrap();
    assert_eq!(tokens_of_groups(&equal, 3), [20, 20, 20]);
    assert_eq!(equal.groups(3).runs.len(), 3, "neighbours that are even are left together");
    // No two cuts make these even: [900, 100] [100, 900] [500, 500] takes sequences that are apart.
    let uneven = Packed::from_lengths(&[900, 0, 900, 500, 100, 500, 0, 100]).unwrap();
    assert_eq!(tokens_of_groups(&uneven, 3), [1000, 1000, 1000]);
    // Of neighbours the longest run is the shortest possible: no other place of two cuts does better.
    let lengths = [7, 1, 0, 9, 4, 4, 2, 8, 1, 3];
    let longest =
        |starts: &[usize]| starts.windows(2).map(|p| lengths[p[0]..p[1]].iter().sum::<usize>()).max().unwrap();
    let best = (0..=10).flat_map(|i| (i..=10).map(move |j| longest(&[0, i, j, 10]))).min().unwrap();
    let got = tokens_of_groups(&Packed::from_lengths(&lengths).unwrap(), 3);
    assert_eq!(got.iter().max(), Some(&best));
    assert!(got.is_sorted_by(|a, b| a >= b), "the longest first: {got:?}");
    // More groups than sequences leaves some with none; no groups count as one; a pack of nothing is in a run.
    assert_eq!(tokens_of_groups(&Packed::from_lengths(&[4]).unwrap(), 4), [4, 0, 0, 0]);
    assert_eq!(equal.groups(0), equal.groups(1));
    assert_eq!(tokens_of_groups(&Packed::from_lengths(&[0, 0]).unwrap(), 2), [0, 0]);
}

proptest::proptest! {
    /// Whatever is dealt out, no group has more than its share, one sequence, and what runs take.
    #[test]
    fn no_group_is_much_longer_than_another(lengths in proptest::collection::vec(0usize..3000, 1..60), groups in 1usize..20) {
        let packed = Packed::from_lengths(&lengths).unwrap();
        let longest = tokens_of_groups(&packed, groups).into_iter().max().unwrap();
        let most = packed.tokens() / groups + lengths.iter().max().unwrap() + 32 * (lengths.len() + 1);
        proptest::prop_assert!(longest <= most, "{longest} of {most}");
    }
}

#[test]
fn groups_are_as_many_as_let_blocks_end_together() {
    let slots = |multiprocessors, blocks| Slots { multiprocessors, blocks };
    // Four slots: four equal sequences in one round, or in two of two tiles each; two groups would be done as soon, and the most are taken.
    let even = Packed::from_lengths(&[1000; 4]).unwrap();
    assert_eq!((even.balanced_groups(1, slots(4, 1)), even.balanced_groups(2, slots(4, 1))), (4, 4));
    assert_eq!(even.balanced_groups(1, slots(2, 2)), 4);
    // Seven, of which three multiprocessors have room for four each: in six groups two are on each.
    let seven = Packed::from_lengths(&[544, 443, 822, 535, 321, 658, 773]).unwrap();
    assert_eq!(seven.balanced_groups(1, slots(3, 4)), 6);
    // A device for ten blocks and tiles of four runs eight blocks at once and leaves two idle; multiples of five groups fill rounds.
    let many = Packed::from_lengths(&[1000; 50]).unwrap();
    assert_eq!(many.balanced_groups(4, slots(10, 1)) % 5, 0);
    let most = (1..=200).map(|n| (many.balanced_groups(3, slots(n, 1)), Packed::most_groups(3, slots(n, 1))));
    assert!(most.into_iter().all(|(groups, most)| groups <= most));
    assert_eq!(Packed::from_lengths(&[0, 0]).unwrap().balanced_groups(4, slots(50, 2)), 1);
}

#[test]
fn what_needs_no_pack_is_given_an_empty_one() {
    let nothing = DevicePacked::empty(&Device::Cpu).unwrap();
    assert_eq!((nothing.packed().tokens(), nothing.packed().sequences()), (0, 0));
    assert_eq!(nothing.cu_seqlens().to_vec::<u32>().unwrap(), [0]);
}

#[test]
fn packs_take_turns_in_one_room() {
    let device = Device::emulator(1);
    let mut room = DevicePacked::with_room(&device, 5).unwrap();
    let packs = [&[3, 0, 2][..], &[1; 5], &[7], &[4, 4]].map(|lengths| Packed::from_lengths(lengths).unwrap());
    let packs = packs.map(|pack| {
        let marks: Vec<bool> = (0..pack.sequences()).map(|s| s == 0).collect();
        pack.with_continued(&marks).unwrap()
    });
    for pack in &packs {
        room.set(pack).unwrap();
        let alone = pack.on(&device).unwrap();
        let made = device.allocations();
        for groups in [1, 3, 3, 1] {
            let (in_room, alone) = (room.groups(groups).unwrap(), pack.groups(groups));
            assert_eq!(in_room.starts.to_vec::<u32>().unwrap(), alone.starts, "{pack:?} in {groups} groups");
            assert_eq!(in_room.runs.to_vec::<u32>().unwrap(), alone.runs.as_flattened());
        }
        assert_eq!(room.packed(), pack);
        assert_eq!(room.cu_seqlens().to_vec::<u32>().unwrap(), alone.cu_seqlens().to_vec::<u32>().unwrap());
        assert_eq!(room.continued().to_vec::<u32>().unwrap(), alone.continued().to_vec::<u32>().unwrap());
        assert_eq!(device.allocations(), made, "there is room for lists of groups");
    }
    let error = room.set(&Packed::from_lengths(&[1; 6]).unwrap()).unwrap_err().to_string();
    assert!(error.contains("sequences") && error.contains("6") && error.contains("room for 5"), "{error}");
    assert_eq!(room.packed(), &packs[3], "what was refused changes nothing");
    // A list that is longer than there is room for is made when it is asked for.
    let made = device.allocations();
    let lists = [1, 2, 3, 1 << 14].map(|groups| room.groups(groups).unwrap());
    assert_eq!(device.allocations(), made + 2);
    assert_eq!(lists[3].starts.to_vec::<u32>().unwrap(), packs[3].groups(1 << 14).starts);
}

#[test]
fn a_room_takes_the_bytes_that_are_planned() {
    let device = Device::emulator(1);
    let mut room = DevicePacked::with_room(&device, 70).unwrap();
    room.set(&Packed::from_lengths(&[1; 70]).unwrap()).unwrap();
    let _two = [1, 8].map(|groups| room.groups(groups).unwrap());
    assert_eq!(device.allocated_bytes(), DevicePacked::bytes(70));
}
