//! Seccomp programs as search trees.
//!
//! A program that compares the number of the call with every number that it knows is long, and the kernel pays for its
//! length with each load: it checks it, translates it, compiles it, and runs it once for every number there is. This
//! one halves the numbers with each comparison.

use seccompiler::{BpfProgram, sock_filter};
use std::collections::BTreeMap;

/// What the kernel does about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Lets it through.
    Allow,
    /// Answers with this errno.
    Errno(i32),
    /// Kills the process.
    Kill,
}

/// A condition on one argument: `argument & mask == value`. Only the lower half is looked at unless the mask is wider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) argument: u32,
    pub(crate) mask: u64,
    pub(crate) value: u64,
}

/// The first rule of which every condition holds decides; the last verdict when none does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) rules: Vec<(Vec<Condition>, Verdict)>,
    pub(crate) otherwise: Verdict,
}

impl From<Verdict> for Rules {
    fn from(otherwise: Verdict) -> Self {
        Self { rules: Vec::new(), otherwise }
    }
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// AUDIT_ARCH_*: the ELF machine, 64 bit, little endian.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
/// AUDIT_ARCH_*: the ELF machine, 64 bit, little endian.
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

fn plain(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn verdict(verdict: Verdict) -> sock_filter {
    let action = match verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno.cast_unsigned(),
        Verdict::Kill => libc::SECCOMP_RET_KILL_PROCESS,
    };
    plain(RETURN, action)
}

/// The program for what each call's rules say; `unknown` for every other number. Calls of another architecture, whose
/// numbers mean something else, end the process.
pub(crate) fn program(calls: &BTreeMap<u32, Rules>, unknown: Verdict) -> BpfProgram {
    let mut ranges: Vec<(u32, Rules)> = vec![(0, unknown.into())];
    for (number, rules) in calls {
        ranges.push((*number, rules.clone()));
        ranges.push((number + 1, unknown.into()));
    }
    // Of two that begin at the same number the later one counts; neighbours that say the same are one.
    ranges.reverse();
    ranges.dedup_by_key(|(start, _)| *start);
    ranges.reverse();
    ranges.dedup_by(|later, earlier| later.1 == earlier.1);
    let mut program = vec![
        plain(LOAD, ARCHITECTURE),
        sock_filter { code: IF_EQUAL, jt: 1, jf: 0, k: NATIVE },
        verdict(Verdict::Kill),
        plain(LOAD, NUMBER),
    ];
    program.extend(tree(&ranges));
    program
}

fn tree(ranges: &[(u32, Rules)]) -> BpfProgram {
    if let [(_, rules)] = ranges {
        return leaf(rules);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let (start, lower, upper) = (upper[0].0, tree(lower), tree(upper));
    let mut program = match u8::try_from(lower.len()) {
        Ok(distance) => vec![sock_filter { code: IF_AT_LEAST, jt: distance, jf: 0, k: start }],
        // A conditional jump reaches 255 instructions.
        Err(_) => vec![
            sock_filter { code: IF_AT_LEAST, jt: 0, jf: 1, k: start },
            plain(JUMP, u32::try_from(lower.len()).expect("a program is short")),
        ],
    };
    program.extend(lower);
    program.extend(upper);
    program
}

fn leaf(rules: &Rules) -> BpfProgram {
    let mut program = Vec::new();
    for (conditions, then) in &rules.rules {
        // From the last condition to the first, so that each knows how far it is to the next rule.
        let mut rule = vec![verdict(*then)];
        for condition in conditions.iter().rev() {
            let mut checks = Vec::new();
            for (offset, shift) in [(4, 32), (0, 0)] {
                let (mask, value) = ((condition.mask >> shift) as u32, (condition.value >> shift) as u32);
                if mask == 0 {
                    continue;
                }
                checks.push(plain(LOAD, ARGUMENTS + 8 * condition.argument + offset));
                if mask != u32::MAX {
                    checks.push(plain(AND, mask));
                }
                checks.push(sock_filter { code: IF_EQUAL, jt: 0, jf: 0, k: value });
            }
            checks.extend(rule);
            rule = checks;
        }
        let length = rule.len();
        for (index, instruction) in rule.iter_mut().enumerate() {
            if instruction.code == IF_EQUAL {
                instruction.jf = u8::try_from(length - index - 1).expect("a rule is short");
            }
        }
        program.extend(rule);
    }
    program.push(verdict(rules.otherwise));
    program
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a program says about a call of `architecture`, as the kernel would run it.
    fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> Verdict {
        let mut data = vec![number, architecture, 0, 0];
        data.extend(arguments.iter().flat_map(|argument| [*argument as u32, (*argument >> 32) as u32]));
        let (mut accumulator, mut next) = (0, 0);
        loop {
            let instruction = &program[next];
            next += 1;
            let choose = |holds: bool| usize::from(if holds { instruction.jt } else { instruction.jf });
            match instruction.code {
                LOAD => accumulator = data[instruction.k as usize / 4],
                AND => accumulator &= instruction.k,
                JUMP => next += instruction.k as usize,
                IF_EQUAL => next += choose(accumulator == instruction.k),
                IF_AT_LEAST => next += choose(accumulator >= instruction.k),
                RETURN => {
                    return match instruction.k {
                        libc::SECCOMP_RET_ALLOW => Verdict::Allow,
                        libc::SECCOMP_RET_KILL_PROCESS => Verdict::Kill,
                        errno => {
                            assert_eq!(errno & libc::SECCOMP_RET_ACTION_FULL, libc::SECCOMP_RET_ERRNO);
                            Verdict::Errno((errno & libc::SECCOMP_RET_DATA).cast_signed())
                        }
                    };
                }
                other => panic!("no instruction of ours: {other:#x}"),
            }
        }
    }

    /// What a program says about a call of this machine's own architecture.
    pub(crate) fn decide(program: &[sock_filter], number: u32, arguments: [u64; 6]) -> Verdict {
        run(program, NATIVE, number, arguments)
    }

    #[test]
    fn trees_too_long_for_a_short_jump_find_every_number() {
        let errno = |number: u32| Verdict::Errno((number % 4000).cast_signed());
        let calls = (0..3000).map(|number| (number * 2, errno(number).into())).collect();
        let program = program(&calls, Verdict::Allow);
        assert!(program.len() > 2 * 255);
        for number in 0..6000 {
            let expected = if number % 2 == 0 { errno(number / 2) } else { Verdict::Allow };
            assert_eq!(decide(&program, number, [0; 6]), expected, "{number}");
        }
        assert_eq!(decide(&program, u32::MAX, [0; 6]), Verdict::Allow);
    }

    #[test]
    fn other_architectures_are_not_served() {
        let program = program(&BTreeMap::from([(1, Verdict::Allow.into())]), Verdict::Errno(libc::ENOSYS));
        assert_eq!(run(&program, NATIVE, 1, [0; 6]), Verdict::Allow);
        assert_eq!(run(&program, NATIVE ^ 1, 1, [0; 6]), Verdict::Kill);
    }

    #[test]
    fn both_halves_of_an_argument_count_when_the_mask_is_wide() {
        let wide = Condition { argument: 5, mask: u64::MAX, value: 1 << 40 | 2 };
        let masked = Condition { argument: 5, mask: 0xff << 32, value: 3 << 32 };
        let rules = vec![(vec![wide], Verdict::Errno(1)), (vec![masked], Verdict::Errno(2))];
        let calls = BTreeMap::from([(7, Rules { rules, otherwise: Verdict::Allow })]);
        let program = program(&calls, Verdict::Kill);
        let ask = |argument| decide(&program, 7, [0, 0, 0, 0, 0, argument]);
        assert_eq!(ask(1 << 40 | 2), Verdict::Errno(1));
        assert_eq!(ask(2), Verdict::Allow);
        assert_eq!(ask(1 << 40), Verdict::Allow);
        assert_eq!(ask(0xabc3_0000_0001), Verdict::Allow);
        assert_eq!(ask(0xab03_0000_0001), Verdict::Errno(2));
    }
}
