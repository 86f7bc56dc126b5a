/** Parses the bandwidth limit in the configuration: one rate, or a timetable like rclone's. Pure. */
import { LxstowError } from './errors.ts';

/** Rates in bytes per second, each from a minute of the week on (Sunday 00:00 is 0), in the order of the week. Infinity is no limit. */
export type Timetable = { from: number; rate: number }[];

const days = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
const minutesADay = 24 * 60;
/** As in rclone and LXD: K and KiB are 1024, kB is 1000. */
const units: Record<string, number> = {
  B: 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  kB: 1e3,
  MB: 1e6,
  GB: 1e9,
};

/**
 * Parses `20MiB`, `off`, or a timetable like rclone's: `08:00,512KiB 19:00,10MiB 23:00,off`, where a time may have a day: `Sat-08:00,off`. Throws
 * bad-config, naming the fault.
 */
export function parseBandwidth(text: string): Timetable {
  const words = text.trim().split(/\s+/);
  if (words.length === 1 && !text.includes(',')) return [{ from: 0, rate: parseRate(text.trim()) }];
  const entries = new Map<number, number>();
  for (const word of words) {
    const [, day, hour, minute, rate] = /^(?:(\w+)-)?(\d\d?):(\d\d),(.+)$/.exec(word) ?? [];
    const on = day === undefined ? days.keys() : [days.findIndex((name) => name.toLowerCase() === day.toLowerCase())];
    const time = Number(hour) * 60 + Number(minute);
    if (rate === undefined || Number(hour) > 23 || Number(minute) > 59)
      throw wrong(`${JSON.stringify(word)} is not a time and a rate, such as 08:00,512KiB`);
    for (const index of on) {
      if (index < 0) throw wrong(`${JSON.stringify(day)} is not one of ${days.join(', ')}`);
      const from = index * minutesADay + time;
      if (entries.has(from)) throw wrong(`${JSON.stringify(word)}: duplicate time`);
      entries.set(from, parseRate(rate));
    }
  }
  return [...entries].map(([from, rate]) => ({ from, rate })).sort((a, b) => a.from - b.from);
}

function parseRate(text: string): number {
  if (text === 'off') return Number.POSITIVE_INFINITY;
  const [, amount, unit = ''] = /^(\d+(?:\.\d+)?)([A-Za-z]+)(?:\/s)?$/.exec(text) ?? [];
  const factor = units[unit];
  const rate = Number(amount) * (factor ?? Number.NaN);
  if (Number.isNaN(rate))
    throw wrong(
      `${JSON.stringify(text)} is neither off nor a rate such as 20MiB; units: ${Object.keys(units).join(', ')}`,
    );
  if (rate < leastRate) throw wrong(`${JSON.stringify(text)} is less than ${leastRate / 1024}KiB a second`);
  return rate;
}

/** With a lower rate, no backup would end in useful time. */
const leastRate = 1024;

function wrong(why: string): LxstowError {
  return new LxstowError('bad-config', `configuration: worker.bandwidth: ${why}`);
}

/** Bytes a second at this local time; daylight saving time shifts the timetable with the clock. */
export function rateAt(timetable: Timetable, time: Date): number {
  const minute = time.getDay() * minutesADay + time.getHours() * 60 + time.getMinutes();
  const entry = timetable.findLast(({ from }) => from <= minute) ?? timetable.at(-1);
  return entry?.rate ?? Number.POSITIVE_INFINITY;
}
