/** What a step costs: time on the wall, CPU of the processes that do it, and the most memory that a process had. */
import { readFile } from 'node:fs/promises';
import { forgetPeak, memoryMiB } from '../lab/processes.ts';
import { attempt } from '../lab/run.ts';

export interface Cost {
  wallS: number;
  /** User and system time of the processes that did the work; undefined where the work is LXD's or the store's alone. */
  cpuS?: number;
  /** The most memory that the worker had, in MiB. */
  peakMiB?: number;
}

/** From sysconf(_SC_CLK_TCK); Linux has had 100 for ever. */
const ticksPerSecond = 100;

/** Runs `step`, and takes what a process used meanwhile. */
export async function measure(step: () => Promise<unknown>, pid?: number): Promise<Cost> {
  if (pid) await forgetPeak(pid);
  const cpu = pid ? await cpuSeconds(pid) : 0;
  const begun = performance.now();
  await step();
  const wallS = (performance.now() - begun) / 1000;
  if (!pid) return { wallS };
  return { wallS, cpuS: (await cpuSeconds(pid)) - cpu, peakMiB: await peakMiB(pid) };
}

/** Runs a line of bash to its end, and takes what all its processes used. Throws when any of them fails. */
export async function measureShell(line: string, env: NodeJS.ProcessEnv = {}): Promise<Cost> {
  const script = `set -o pipefail; TIMEFORMAT='%R %U %S'; time { ${line}; }`;
  const { status, stderr } = await attempt('bash', ['-c', script], { env: { ...process.env, ...env } });
  const [wallS = 0, user = 0, system = 0] = stderr.trim().split('\n').at(-1)?.split(' ').map(Number) ?? [];
  if (status !== 0) throw new Error(`${line}: ${stderr.trim().slice(-500)}`);
  return { wallS, cpuS: user + system };
}

/** User and system time of a process since it began. */
export async function cpuSeconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  // The second field is the command's name, in parentheses, with whatever in it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

/** The most resident memory since the last forgetPeak(), in MiB. */
export function peakMiB(pid: number): Promise<number> {
  return memoryMiB(pid, 'VmHWM');
}

export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const [low = Number.NaN, high = Number.NaN] = [sorted[middle - (sorted.length % 2 === 0 ? 1 : 0)], sorted[middle]];
  return (low + high) / 2;
}

/** The value below which this share of them is. */
export function quantile(values: number[], share: number): number {
  return values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN;
}

/** The costs' medians, each by itself. */
export function medianCost(costs: Cost[]): Cost {
  const of = (pick: (cost: Cost) => number | undefined) => {
    const values = costs.map(pick).filter((value) => value !== undefined);
    return values.length === 0 ? undefined : median(values);
  };
  const [cpuS, peak] = [of((cost) => cost.cpuS), of((cost) => cost.peakMiB)];
  return {
    wallS: of((cost) => cost.wallS) ?? Number.NaN,
    ...(cpuS === undefined ? {} : { cpuS }),
    ...(peak === undefined ? {} : { peakMiB: peak }),
  };
}
