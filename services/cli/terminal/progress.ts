/** Progress on standard error: bars on a terminal, a line for each change of state elsewhere. */
import type { WriteStream } from 'node:tty';
import { size } from './output.ts';
import { printable } from './table.ts';

export interface Step {
  label: string;
  /** A word or two. */
  state: string;
  done?: number | undefined;
  total?: number | undefined;
  /** Bytes a second. */
  rate?: number | undefined;
  ended?: boolean;
  /** A line above the others that sums them up. It is always drawn; without a terminal, it is printed every few seconds. */
  heading?: boolean;
}

export interface Progress extends Disposable {
  show(steps: Step[]): void;
  /** A line of its own, above the bars. */
  note(text: string): void;
}

export function openProgress(quiet = false, stream: WriteStream = process.stderr): Progress {
  const note = (text: string) => void stream.write(`${printable(text)}\n`);
  if (quiet) return { show: () => undefined, note, [Symbol.dispose]: () => undefined };
  return stream.isTTY && process.env.TERM !== 'dumb' ? bars(stream) : lines(note);
}

/** A step without changes is printed again this often. */
const sayEveryMs = 60_000;
const sayHeadingEveryMs = 10_000;

function lines(note: (text: string) => void): Progress {
  const said = new Map<string, { state: string; at: number }>();
  return {
    show(steps) {
      const now = performance.now();
      for (const step of steps) {
        const before = said.get(step.label);
        if (before?.state === step.state && (step.ended || now - before.at < sayEveryMs)) continue;
        if (step.heading && !step.ended && before && now - before.at < sayHeadingEveryMs) continue;
        said.set(step.label, { state: step.state, at: now });
        const far = before?.state === step.state ? percent(step) : '';
        note(`${step.label}: ${step.state}${far && `, ${far}`}`);
      }
    },
    note,
    [Symbol.dispose]: () => undefined,
  };
}

function bars(stream: WriteStream): Progress {
  let drawn = 0;
  let last: Step[] = [];
  const clear = () => {
    if (drawn > 0) stream.write(`\x1b[${drawn}A`);
    stream.write('\r\x1b[J');
    drawn = 0;
  };
  const draw = () => {
    const { columns, rows } = { columns: stream.columns || 80, rows: stream.rows || 24 };
    // On a low terminal, show first what runs, then what waits, then what has ended.
    const room = Math.max(1, rows - 2);
    const sorted = last.length <= room ? last : last.toSorted((a, b) => order(a) - order(b));
    const shown = sorted.length <= room ? sorted : sorted.slice(0, room - 1);
    const width = Math.max(...shown.map(({ label, heading }) => (heading ? 0 : label.length)), 0);
    const texts = shown.map((step) => bar(step, width, columns - 1));
    if (shown.length < sorted.length) texts.push(rest(sorted.slice(shown.length)));
    stream.write(texts.map((text) => `${text.slice(0, columns - 1)}\n`).join(''));
    drawn = texts.length;
  };
  return {
    show(steps) {
      clear();
      last = steps;
      draw();
    },
    note(text) {
      clear();
      stream.write(`${printable(text)}\n`);
      draw();
    },
    [Symbol.dispose]: clear,
  };
}

const order = ({ heading, ended, done }: Step) => (heading ? 0 : ended ? 3 : done === undefined ? 2 : 1);

function rest(steps: Step[]): string {
  const ended = steps.filter((step) => step.ended).length;
  return `and ${steps.length} more, of which ${ended} have ended`;
}

const barWidth = 24;

/** `c1  uploading  [=======>      ]  45%  33.70MiB/115.50MiB  61.60MiB/s  0:02 left`; drops columns on a narrow terminal. */
function bar(step: Step, labelWidth: number, columns: number): string {
  const { label, state, done, total, rate, ended } = step;
  const parts = [printable(label).padEnd(labelWidth), printable(state).padEnd(10)];
  if (!ended && done !== undefined) {
    if (total) {
      const filled = Math.round((Math.min(done, total) / total) * barWidth);
      parts.push(`[${'='.repeat(filled).replace(/=$/, '>').padEnd(barWidth)}]`, percent(step).padStart(4));
    }
    parts.push(total ? `${size(done)}/${size(total)}` : size(done));
    if (rate) parts.push(`${size(rate)}/s`);
    if (rate && total) parts.push(`${clock((total - done) / rate)} left`);
  }
  while (parts.length > 3 && parts.join('  ').length > columns) parts.splice(2, 1);
  return parts.join('  ').trimEnd();
}

function percent({ done, total }: Step): string {
  return done === undefined || !total ? '' : `${Math.min(100, Math.floor((done * 100) / total))}%`;
}

/** `0:02`, `12:40`, `3:05:00` */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.ceil(seconds));
  const two = (n: number) => String(n).padStart(2, '0');
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
