//! What buffers hold, share and count.

use super::*;

#[test]
fn a_buffer_is_written_whole_and_with_its_own_type() {
    let buffer = Buffer::from_slice(&Device::Cpu, &[1.0f32, 2.0]).unwrap();
    buffer.write(&[3.0f32, 4.0]).unwrap();
    assert_eq!(buffer.to_vec::<f32>().unwrap(), [3.0, 4.0]);
    for wrong in [buffer.write(&[3.0f32]), buffer.write(&[3u32, 4])] {
        let error = wrong.unwrap_err().to_string();
        assert!(error.starts_with("buffer: it holds 2 f32, not"), "{error}");
    }
    assert_eq!(buffer.to_vec::<f32>().unwrap(), [3.0, 4.0]);
}

#[test]
fn a_buffer_is_refilled_in_the_room_that_it_has() {
    let device = Device::emulator(1);
    let mut buffer = Buffer::from_slice(&device, &[1u32, 2, 3, 4]).unwrap();
    for values in [&[5, 6][..], &[], &[7, 8, 9, 10]] {
        buffer.refill::<u32>(values).unwrap();
        assert_eq!((buffer.to_vec::<u32>().unwrap().as_slice(), buffer.len()), (values, values.len()));
    }
    for wrong in [buffer.refill(&[1u32; 5]), buffer.refill(&[1.0f32])] {
        let error = wrong.unwrap_err().to_string();
        assert!(error.starts_with("buffer: it has room for 4 u32, not for"), "{error}");
    }
    assert_eq!(buffer.to_vec::<u32>().unwrap(), [7, 8, 9, 10]);
    assert_eq!((device.allocations(), device.allocated_bytes()), (1, 16));
    drop(buffer);
    assert_eq!((device.allocations(), device.allocated_bytes()), (1, 0));
}

#[test]
fn a_part_of_a_flat_buffer_is_written_read_and_cleared_alone() {
    for device in [Device::Cpu, Device::emulator(1)] {
        let flat = Buffer::from_slice(&device, &[1.0f32; 10]).unwrap();
        let part = flat.part(2, 2, 3).unwrap();
        assert_eq!((part.shape(), part.len()), ((2, 3), 6));
        part.write(&[2.0f32, 3.0, 4.0, 5.0, 6.0, 7.0]).unwrap();
        assert_eq!(part.rows_at(1, 1).unwrap().to_vec::<f32>().unwrap(), [5.0, 6.0, 7.0]);
        part.rows_at(0, 1).unwrap().zero().unwrap();
        assert_eq!(flat.to_vec::<f32>().unwrap(), [1.0, 1.0, 0.0, 0.0, 0.0, 5.0, 6.0, 7.0, 1.0, 1.0]);
        flat.zero().unwrap();
        assert_eq!(flat.to_vec::<f32>().unwrap(), [0.0; 10]);
        assert!(flat.fence_holds().unwrap());
    }
}

#[test]
fn a_buffer_within_another_is_counted_once_and_overlaps_it() {
    for device in [Device::emulator(1), Device::Cpu] {
        let whole = Buffer::from_slice(&device, &[1.0f32; 200]).unwrap();
        let before = device.allocations();
        let inner = whole.within(256, Dtype::Bf16, 6).unwrap();
        assert_eq!((inner.len(), device.allocations() - before), (6, 0));
        inner.write(&[half::bf16::ZERO; 6]).unwrap();
        assert_eq!(whole.part(63, 5, 1).unwrap().to_vec::<f32>().unwrap(), [1.0, 0.0, 0.0, 0.0, 1.0]);
        whole.part(65, 1, 1).unwrap().write(&[1.0f32]).unwrap();
        assert_eq!(inner.to_f32().unwrap(), [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        let meets = |offset, len| whole.part(offset, len, 1).unwrap().overlaps(&inner.view());
        assert_eq!([meets(0, 64), meets(60, 5), meets(66, 1), meets(67, 9)], [false, true, true, false]);
        assert!(inner.part(2, 2, 1).unwrap().overlaps(&whole.part(65, 1, 1).unwrap()));
        for (start, len) in [(128, 1), (768, 17), (1024, 1), (usize::MAX - 255, 1)] {
            let error = whole.within(start, Dtype::Bf16, len).unwrap_err().to_string();
            assert!(error.contains("within 800 bytes"), "{error}");
        }
        drop(whole);
        // What lies within goes on.
        assert_eq!(inner.to_f32().unwrap()[3], 1.0);
    }
    let device = Device::emulator(1);
    let whole = Buffer::unwritten(&device, Dtype::F32, 100).unwrap();
    let inner = whole.within(0, Dtype::F32, 100).unwrap();
    drop(whole);
    assert_eq!(device.allocated_bytes(), 400);
    drop(inner);
    assert_eq!(device.allocated_bytes(), 0);
}

#[test]
fn a_part_outside_or_with_gaps_is_refused() {
    let flat = Buffer::from_slice(&Device::Cpu, &[1.0f32; 10]).unwrap();
    assert!(flat.part(10, 0, 3).unwrap().is_empty());
    for (offset, rows, cols) in [(5, 2, 3), (11, 0, 0), (usize::MAX, 1, 1), (0, usize::MAX, 2)] {
        let error = flat.part(offset, rows, cols).unwrap_err().to_string();
        assert!(error.contains("10 elements"), "{error}");
    }
    let gaps = flat.part(0, 2, 5).unwrap().columns(1, 2).unwrap();
    let refused = [gaps.zero().err(), gaps.write(&[0.0f32; 4]).err(), gaps.to_vec::<f32>().err()].map(Option::unwrap);
    for error in refused.map(|error| error.to_string()) {
        assert!(error.contains("rows of 2 start 5 apart"), "{error}");
    }
    assert_eq!(flat.to_vec::<f32>().unwrap(), [1.0; 10]);
}

#[test]
fn a_device_counts_its_buffers() {
    let device = Device::emulator(1);
    let small = Buffer::unwritten(&device, Dtype::Bf16, 8).unwrap();
    let large = Buffer::unwritten(&device, Dtype::F32, 100).unwrap();
    assert_eq!((device.allocated_bytes(), device.peak_bytes()), (416, 416));
    drop(large);
    assert_eq!((device.allocated_bytes(), device.peak_bytes()), (16, 416));
    drop(small);
    assert_eq!((device.allocated_bytes(), device.peak_bytes()), (0, 416));
    // Other tests of this process use the CPU too.
    let large = Buffer::unwritten(&Device::Cpu, Dtype::F32, 1 << 20).unwrap();
    assert!(Device::Cpu.allocated_bytes() >= 4 << 20);
    drop(large);
    assert!(Device::Cpu.peak_bytes() >= 4 << 20);
}
