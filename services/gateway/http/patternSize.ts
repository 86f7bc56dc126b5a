/** How large the program of a regular expression is, from its text alone: RE2 needs seconds to compile what `(?:.?){1000}` stands for. Pure. */

/** A character class by Unicode property is one instruction, but takes as long to compile as this many (0.5 ms). */
const propertySize = 30;

/**
 * An upper bound of the instructions to which RE2 compiles the pattern; any number for a pattern that RE2 refuses. Repetition counts
 * multiply, also where they are nested.
 */
export function programSizeOf(pattern: string): number {
  /** For each open group: its size so far, and that of its last atom, which a repetition would repeat. */
  const groups = [{ size: 4, last: 0 }];
  const add = (size: number) => {
    const group = groups.at(-1) as { size: number; last: number };
    group.size += size;
    group.last = size;
  };
  for (let at = 0; at < pattern.length; at++) {
    const group = groups.at(-1) as { size: number; last: number };
    const sign = pattern[at] as string;
    const repeat = sign === '{' ? /^\{(\d+)(,(\d*))?\}/.exec(pattern.slice(at, at + 20)) : null;
    if (repeat) {
      const times = Math.max(1, Number(repeat[1]), Number(repeat[3] || 0));
      // Each optional repetition needs one more instruction.
      const size = (group.last + 1) * times + 1;
      group.size += size - group.last;
      group.last = size;
      at += repeat[0].length - 1;
    } else if (sign === '(') {
      groups.push({ size: 2, last: 0 });
    } else if (sign === ')' && groups.length > 1) {
      groups.pop();
      add(group.size);
    } else if (sign === '[') {
      const end = endOfClass(pattern, at);
      const inside = pattern.slice(at, end);
      add(2 + propertySize * (inside.match(/\\[pPwWdDsS]|\[:/g)?.length ?? 0));
      at = end;
    } else if (sign === '\\') {
      at++;
      if (pattern[at] === 'Q') {
        const end = pattern.indexOf('\\E', at);
        const quoted = end < 0 ? pattern.length : end;
        // Count it as if all of the quoted text were repeated. In fact only its last character is, or nothing.
        add(2 * (quoted - at));
        at = end < 0 ? pattern.length : end + 1;
      } else add(/[pP]/.test(pattern[at] ?? '') ? propertySize : 2);
    } else if ('*+?|'.includes(sign)) {
      group.size += 2;
      group.last += 2;
    } else add(/[ks]/i.test(sign) ? 2 : 1);
  }
  return groups.reduce((sum, { size }) => sum + size, 0);
}

/** Where the character class that begins at `from` ends. A `]` at its beginning is one of its characters. */
function endOfClass(pattern: string, from: number): number {
  for (let at = pattern[from + 1] === '^' ? from + 3 : from + 2; at < pattern.length; at++) {
    if (pattern[at] === '\\') at++;
    else if (pattern.startsWith('[:', at)) at = Math.max(at, pattern.indexOf(':]', at) + 1);
    else if (pattern[at] === ']') return at;
  }
  return pattern.length;
}
