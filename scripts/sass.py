"""Which instructions a block of threads issues: kernels as nvdisasm prints them, walked without a GPU.

What decides where a kernel goes, whole numbers made of its arguments and of the places of its threads, is computed exactly.
What it reads and computes in floating point is taken to be 1.0: the kernels measured with this do not branch on data, but for
the slow paths of division, root and erf, which ordinary numbers do not take. Barriers hold nobody up, as nothing depends on
what another thread wrote.
"""

import re

import numpy as np

ONE = 0x3F800000
MASK = 0xFFFFFFFF
PARAMETERS = 0x210  # of compute capability 9.0, in the constant bank
WARP = 32

INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
LABEL = re.compile(r"^(\.L_x_\d+|\$__internal\S*):")
PREDICATE = re.compile(r"^!?U?P[0-9T]$")
REGISTER = re.compile(r"^([-~|]*)(U?R(?:\d+|Z))\|?(?:\.\w+)*$")
CONSTANT = re.compile(r"^-?c\[0x0\]\[(?:(U?R\d+)\+?)?(0x[0-9a-f]+)?\]$")
NO_RESULT = {"ST", "STG", "STS", "LDGSTS", "BAR", "DEPBAR", "LDGDEPBAR", "BRA", "BSSY", "BSYNC", "BREAK", "EXIT", "NOP", "WARPSYNC",
             "CALL", "RET", "ENDCOLLECTIVE", "YIELD", "MEMBAR", "ERRBAR", "CCTL", "ACQBULK", "BMOV"}
COMPARE = {"LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal, "EQ": np.equal, "NE": np.not_equal}


class Instruction:
    def __init__(self, address, guard, name, operands):
        self.address, self.guard, self.name = address, guard, name
        self.parts = name.split(".")
        self.op = self.parts[0]
        self.operands = [o.strip() for o in operands.split(", ")] if operands else []
        self.results, self.flags = [], []  # registers; predicates
        if self.op in NO_RESULT:
            self.sources = self.operands
            return
        at = 0
        while PREDICATE.match(self.operands[at]):
            self.flags.append(self.operands[at])
            at += 1
            if at == (2 if self.op.endswith(("SETP", "PLOP3")) else 1):
                break
        if not self.op.endswith("SETP") and self.op not in ("PLOP3", "FCHK", "UPLOP3"):
            self.results.append(self.operands[at])
            at += 1
            while at < len(self.operands) and self.op in CARRIES and PREDICATE.match(self.operands[at]):
                self.flags.append(self.operands[at])
                at += 1
        self.sources = self.operands[at:]


CARRIES = {"IADD3", "UIADD3", "LEA", "ULEA", "IMAD", "UIMAD"}


class Kernel:
    def __init__(self, name):
        self.name, self.code, self.labels = name, [], {}

    def finish(self):
        self.at = {i.address: n for n, i in enumerate(self.code)}


def read_kernels(lines):
    """Kernels by their (mangled) name, of what nvdisasm prints of a cubin."""
    kernels, present = {}, None
    for line in lines:
        if line.startswith(".text."):
            present = kernels[line[6:].strip().rstrip(":")] = Kernel(line[6:].strip().rstrip(":"))
        elif line.lstrip().startswith(".section"):
            present = None
        if present is None:
            continue
        label, found = LABEL.match(line), INSTRUCTION.search(line)
        if label:
            present.labels[label[1]] = len(present.code)
        if found:
            present.code.append(Instruction(int(found[1], 16), found[2], found[3], found[4]))
    for kernel in kernels.values():
        kernel.finish()
    return kernels


def signed(x):
    return (np.asarray(x, np.int64) & MASK ^ 0x80000000) - 0x80000000


def as_float(x):
    return np.asarray(x, np.int64).astype(np.uint32).view(np.float32)


def wide(low, high):
    return np.asarray(low, np.uint64) | np.asarray(high, np.uint64) << np.uint64(32)


class Block:
    """The threads of one block on their way through a kernel."""

    def __init__(self, kernel, grid, block, threads, arguments):
        self.kernel, self.threads, self.block = kernel, threads, block
        self.bank = np.zeros(PARAMETERS + len(arguments) + 16, np.uint8)
        self.bank[PARAMETERS:PARAMETERS + len(arguments)] = np.frombuffer(arguments, np.uint8)
        self.bank[0:24] = np.array([threads, 1, 1, *grid], np.uint32).view(np.uint8)
        self.registers, self.predicates = {}, {}
        self.counts = np.zeros(len(kernel.code), np.int64)  # issued, by warps
        self.cached, self.passed = set(), 0
        self.lane = np.arange(threads)
        self.pc = np.zeros(threads, np.int64)

    # --- operands ---

    def read(self, name):
        if name[-1] == "Z":
            return np.zeros(self.threads, np.int64)
        if name not in self.registers:
            self.registers[name] = np.zeros(self.threads, np.int64)
        return self.registers[name]

    def constant(self, register, offset, size=4):
        at = (self.read(register) if register else np.zeros(self.threads, np.int64)) + int(offset or "0", 16)
        at = np.where(self.active, at, 0)
        value = np.zeros(self.threads, np.int64)
        for i in range(size):
            value |= self.bank[at + i].astype(np.int64) << 8 * i
        return value

    def number(self, text, step=0):
        """An operand as 32 bits; with step, that many registers (or words) further on."""
        found = REGISTER.match(text)
        if found:
            name = found[2]
            if step and name[-1] != "Z":
                name = re.sub(r"\d+", lambda m: str(int(m[0]) + step), name)
            value = self.read(name)
            if "|" in found[1]:
                value = value & 0x7FFFFFFF  # of a float, all that is compared with one
            if "-" in found[1]:
                value = -value & MASK
            return ~value & MASK if "~" in found[1] else value
        found = CONSTANT.match(text.replace(".reuse", ""))
        if found:
            value = self.constant(found[1], hex(int(found[2] or "0", 16) + 4 * step))
            return -value & MASK if text[0] == "-" else value
        if re.match(r"^-?0x[0-9a-f]+$", text):
            value = int(text, 16)
            return np.full(self.threads, (value >> 32 if step else value) & MASK)
        if text == "SRZ":
            return np.zeros(self.threads, np.int64)
        raise ValueError("operand " + text)

    def float_number(self, text):
        try:
            return np.full(self.threads, np.float32(text.replace("INF", "inf")))
        except ValueError:
            return as_float(self.number(text)) * (-1 if text[0] == "-" and not CONSTANT.match(text) else 1)

    def pair(self, text):
        return wide(self.number(text), self.number(text, 1))

    def flag(self, text):
        name = text.lstrip("!")
        value = np.ones(self.threads, bool) if name in ("PT", "UPT") else self.predicates.setdefault(
            name, np.zeros(self.threads, bool))
        return ~value if text[0] == "!" else value

    # --- results ---

    def write(self, name, value):
        if name[-1] != "Z":
            self.registers[name] = np.where(self.active, np.asarray(value, np.int64) & MASK, self.read(name))

    def write_words(self, name, words):
        for i, value in enumerate(words):
            self.write(name if name[-1] == "Z" else re.sub(r"\d+", lambda m: str(int(m[0]) + i), name), value)

    def write_wide(self, name, value):
        value = np.asarray(value, np.uint64)
        self.write_words(name, [(value & np.uint64(MASK)).astype(np.int64), (value >> np.uint64(32)).astype(np.int64)])

    def write_flag(self, name, value):
        if name not in ("PT", "UPT"):
            self.predicates[name] = np.where(self.active, value, self.flag(name))

    # --- instructions ---

    def sum3(self, i, numbers, carries_in):
        total = sum(np.asarray(n, np.int64) for n in numbers) + sum(c.astype(np.int64) for c in carries_in)
        for n, flag in enumerate(i.flags):
            self.write_flag(flag, total >> 32 > n)
        self.write(i.results[0], total)

    def iadd3(self, i):
        # -x is ~x + 1, whose carry tells that x was zero
        numbers = [(self.number(s[1:]) ^ MASK) + 1 if s[0] == "-" else self.number(s) for s in i.sources if not PREDICATE.match(s)]
        self.sum3(i, numbers, [self.flag(s) for s in i.sources if PREDICATE.match(s)])

    def lea(self, i):
        numbers = [s for s in i.sources if not PREDICATE.match(s)]
        carry = [self.flag(s) for s in i.sources if PREDICATE.match(s)] if "X" in i.parts else []
        shift, low, add = int(numbers[-1], 16), self.number(numbers[0]), self.number(numbers[1])
        if "HI" not in i.parts:
            return self.sum3(i, [low << shift & MASK, add], carry)
        high = signed(low) >> 31 & MASK if "SX32" in i.parts else self.number(numbers[2])
        return self.sum3(i, [(wide(low, high) >> np.uint64(32 - shift)).astype(np.int64) & MASK, add], carry)

    def imad(self, i):
        a, b, c = i.sources[:3]
        is_unsigned = "U32" in i.parts
        if "WIDE" in i.parts or "HI" in i.parts:
            x, y = (self.number(s) if is_unsigned else signed(self.number(s)) for s in (a, b))
            product = x.astype(np.uint64) * y.astype(np.uint64)
            total = product + self.pair(c)
            if "X" in i.parts:
                total = total + self.flag(i.sources[3]).astype(np.uint64)
            for flag in i.flags:
                self.write_flag(flag, total < product)
            if "WIDE" in i.parts:
                self.write_wide(i.results[0], total)
            else:
                self.write(i.results[0], (total >> np.uint64(32)).astype(np.int64))
            return
        total = (self.number(a).astype(np.uint64) * self.number(b).astype(np.uint64)).astype(np.int64) + self.number(c)
        if "X" in i.parts:
            total = (total & MASK) + self.flag(i.sources[3])
        self.write(i.results[0], total)

    def lop3(self, i):
        a, b, c = (self.number(s) for s in i.sources[:3])
        table, result = int(i.sources[3], 16), np.zeros(self.threads, np.int64)
        for n in range(8):
            if table >> n & 1:
                result |= (a if n & 4 else ~a) & (b if n & 2 else ~b) & (c if n & 1 else ~c)
        self.write(i.results[0], result)
        for flag in i.flags:
            self.write_flag(flag, result & MASK != 0)

    def plop3(self, i):
        a, b, c = (self.flag(s) for s in i.sources[:3])
        for flag, table in zip(i.flags, i.sources[3:]):
            result = np.zeros(self.threads, bool)
            for n in range(8):
                if int(table, 16) >> n & 1:
                    result |= (a if n & 4 else ~a) & (b if n & 2 else ~b) & (c if n & 1 else ~c)
            self.write_flag(flag, result)

    def setp(self, i):
        sources = i.sources
        if i.op == "FSETP":
            a, b = self.float_number(sources[0]), self.float_number(sources[1])
            is_unordered = i.parts[1].endswith("U")
            result = COMPARE[i.parts[1][:2]](a, b) | (is_unordered & (np.isnan(a) | np.isnan(b)))
        else:
            a, b = self.number(sources[0]), self.number(sources[1])
            if "U32" not in i.parts:
                a, b = signed(a), signed(b)
            result = COMPARE[i.parts[1]](a, b)
            if "EX" in i.parts:  # of the lower halves, where the upper ones are equal
                lower = self.flag(sources[3])
                strict = {"LE": np.less, "GE": np.greater, "LT": np.less, "GT": np.greater}
                if i.parts[1] == "EQ":
                    result = (a == b) & lower
                elif i.parts[1] == "NE":
                    result = (a != b) | lower
                else:
                    result = strict[i.parts[1]](a, b) | (a == b) & lower
        other = self.flag(sources[2])
        join = (lambda x: x & other) if "AND" in i.parts else (lambda x: x | other)
        self.write_flag(i.flags[0], join(result))
        if len(i.flags) > 1:
            self.write_flag(i.flags[1], join(~result))

    def shf(self, i):
        low, by, high = (self.number(s) for s in i.sources[:3])
        is_64 = any(p in ("U64", "S64") for p in i.parts)
        by = np.minimum(by & 0xFF, 63 if is_64 else 32).astype(np.uint64)
        value = wide(low, high)
        if "L" in i.parts:
            value = value << by if "HI" in i.parts or is_64 else wide(low, 0 * low) << by
        elif "HI" in i.parts and "S32" in i.parts:
            self.write(i.results[0], signed(high) >> np.minimum(by.astype(np.int64), 31))
            return
        elif "HI" in i.parts:
            value = wide(0 * high, high) >> by
        else:
            value = value >> by
        self.write(i.results[0], (value >> np.uint64(32 if "HI" in i.parts else 0)).astype(np.int64) & MASK)

    def prmt(self, i):
        a, by, b = (self.number(s) for s in i.sources[:3])
        value, result = wide(a, b), np.zeros(self.threads, np.int64)
        for n in range(4):
            nibble = by >> 4 * n & 0xF
            byte = (value >> (8 * (nibble & 7)).astype(np.uint64)).astype(np.int64) & 0xFF
            result |= np.where(nibble & 8, np.where(byte & 0x80, 0xFF, 0), byte) << 8 * n
        self.write(i.results[0], result)

    def select(self, i):
        self.write(i.results[0], np.where(self.flag(i.sources[2]), self.number(i.sources[0]), self.number(i.sources[1])))

    def extreme(self, i):
        *numbers, is_min = i.sources
        values = [self.number(s) for s in numbers]
        if i.op == "VIADDMNMX":
            values = [(values[0] + values[1]) & MASK, values[2]]
        if "U32" not in i.parts:
            values = [signed(v) for v in values]
        self.write(i.results[0], np.where(self.flag(is_min), np.minimum(*values), np.maximum(*values)))

    def special(self, i):
        name, axes = i.sources[0], "XYZ"
        value = 0
        if name == "SR_TID.X":
            value = self.lane
        elif name == "SR_LANEID":
            value = self.lane % WARP
        elif name.startswith("SR_CTAID."):
            value = self.block[axes.index(name[-1])]
        self.write_words(i.results[0], [value + np.zeros(self.threads, np.int64)] * (1 if i.op != "CS2R" or "32" in i.parts else 2))

    def load_constant(self, i):
        found = CONSTANT.match(i.sources[0])
        if "64" in i.parts:
            self.write_words(i.results[0], [self.constant(found[1], hex(int(found[2] or "0", 16) + 4 * n)) for n in range(2)])
        else:
            self.write(i.results[0], self.constant(found[1], found[2], 1 if "U8" in i.parts else 4))

    def convert(self, i):
        if i.op == "F2I":
            value = np.maximum(as_float(self.number(i.sources[0])).astype(np.float64), 0)
            if "U64" in i.parts:
                self.write_wide(i.results[0], value.astype(np.uint64))
            else:
                self.write(i.results[0], np.minimum(value, MASK).astype(np.int64))
            return
        if "U64" in i.parts or "S64" in i.parts:
            exact = self.pair(i.sources[0]).astype(np.int64 if "S64" in i.parts else np.uint64)
        else:
            exact = self.number(i.sources[0]) if "U32" in i.parts else signed(self.number(i.sources[0]))
        value = exact.astype(np.float32)
        if "RP" in i.parts:
            value = np.where(value.astype(np.float64) < exact, np.nextafter(value, np.float32(np.inf)), value)
        self.write(i.results[0], value.astype(np.float32).view(np.uint32))

    def reciprocal(self, i):
        with np.errstate(divide="ignore", over="ignore"):
            value = np.float32(1) / as_float(self.number(i.sources[0]))
        self.write(i.results[0], value.astype(np.float32).view(np.uint32))

    def halves(self, i):  # HFMA2 of zeros makes a constant of two halves
        if i.sources[:2] != ["-RZ", "RZ"]:
            return self.unknown(i)
        high, low = (int(np.float16(s).view(np.uint16)) for s in i.sources[2:4])
        self.write(i.results[0], np.full(self.threads, high << 16 | low))

    def shuffle(self, i):
        by = self.number(i.sources[1]) % WARP
        of = {"BFLY": self.lane % WARP ^ by, "IDX": by}.get(i.parts[1])
        if of is None:
            return self.unknown(i)
        self.write(i.results[0], self.number(i.sources[0])[self.lane // WARP * WARP + of])
        return self.write_flag(i.flags[0], np.ones(self.threads, bool))

    def unknown(self, i):
        width = 4 if i.op in ("HMMA", "LDSM") or "128" in i.parts else 2 if "64" in i.parts else 1
        for name in i.results:
            self.write_words(name, [np.full(self.threads, ONE)] * width)
        for name in i.flags:
            self.write_flag(name, np.zeros(self.threads, bool))

    def count_sectors(self, i):
        place = next(s for s in i.operands if s.startswith("desc["))
        found = re.match(r"desc\[\w+\]\[(R\d+|RZ)(?:\.64)?(?:\+(UR\d+))?(?:\+?(-?0x[0-9a-f]+))?\]", place)
        at = self.pair(found[1]).astype(np.int64) + int(found[3] or "0", 16)
        lanes = self.active
        if i.op == "LDGSTS" and PREDICATE.match(i.operands[-1]):
            lanes = lanes & self.flag(i.operands[-1])
        if i.op == "LDG":
            self.cached.update(at[lanes] // 32)
        else:
            self.passed += len(np.unique(at[lanes] // 32 * 64 + self.lane[lanes] // WARP))

    @property
    def sectors(self):
        """Of global memory, 32 bytes each: what a block loads once, as the rest is in the first cache; what passes by it."""
        return len(self.cached) + self.passed

    HOW = {"IADD3": iadd3, "VIADD": iadd3, "LEA": lea, "IMAD": imad, "LOP3": lop3, "PLOP3": plop3, "ISETP": setp, "FSETP": setp,
           "SHF": shf, "PRMT": prmt, "SEL": select, "VIMNMX": extreme, "IMNMX": extreme, "VIADDMNMX": extreme, "S2R": special, "S2UR": special,
           "CS2R": special, "LDC": load_constant, "F2I": convert, "I2F": convert, "I2FP": convert, "HFMA2": halves, "SHFL": shuffle}

    def run(self, i):
        op = i.op[1:] if i.op[0] == "U" and i.op[1:] in self.HOW else i.op
        if op in self.HOW:
            self.HOW[op](self, i)
        elif op in ("MOV", "UMOV", "R2UR"):
            self.write(i.results[0], self.number(i.sources[0]))
        elif op == "IABS":
            self.write(i.results[0], np.abs(signed(self.number(i.sources[0]))))
        elif op == "P2R":
            self.write(i.results[0], sum(self.flag("P%d" % n).astype(np.int64) << n for n in range(7)) & self.number(i.sources[-1]))
        elif i.name == "MUFU.RCP":
            self.reciprocal(i)
        else:
            self.unknown(i)
        if op in ("LDG", "STG", "LDGSTS"):
            self.count_sectors(i)

    def target(self, text):
        return self.kernel.labels[re.search(r"`\((.*)\)", text)[1]]

    def step(self):
        """One instruction for the threads that are furthest behind; False when all have left."""
        here = int(self.pc.min())
        if here >= len(self.kernel.code):
            return False
        i, group = self.kernel.code[here], self.pc == here
        self.counts[here] += np.unique(self.lane[group] // WARP).size
        self.active = group & self.flag(i.guard) if i.guard else group
        after = np.full(self.threads, here + 1)
        if i.op == "EXIT":
            after[self.active] = len(self.kernel.code)
        elif i.name == "BRA" or i.op == "CALL":
            taken = self.active
            for s in i.sources[:-1]:
                taken = taken & self.flag(s)
            after[taken] = self.target(i.sources[-1])
        elif i.op == "RET":
            register = i.sources[0]
            for lane in np.flatnonzero(self.active):
                after[lane] = self.kernel.at[int(self.read(register)[lane])]
        elif self.active.any():
            self.run(i)
        self.pc[group] = after[group]
        return True

    def walk(self, most=10 ** 7):
        for _ in range(most):
            if not self.step():
                return self
        raise RuntimeError("%s does not end" % self.kernel.name)
