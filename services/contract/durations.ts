/** Spans of time as people write them: `90s`, `30m`, `26h`, `8d`, `2w`; and times, as people read them or as a wrong clock made them. */

export const hourMs = 3_600_000;
const unitsMs: Record<string, number> = { s: 1000, m: 60_000, h: hourMs, d: 86_400_000, w: 604_800_000 };

/** Milliseconds; NaN if the text is not a duration in one of these units. */
export function parseDuration(text: string, units = 'smhdw'): number {
  const [, count, unit = ''] = /^(\d{1,5})([smhdw])$/.exec(text) ?? [];
  return units.includes(unit) ? Number(count) * (unitsMs[unit] ?? Number.NaN) : Number.NaN;
}

/** The clocks of hosts may differ by this much. */
const mostSkewMs = 300_000;

/** Whether a time, in ms, comes from a wrong clock, because it is still to come. */
export function isAhead(ms: number, now: Date): boolean {
  return ms > now.getTime() + mostSkewMs;
}

/** A time of RFC 3339 in UTC, to the minute: `2026-12-28 03:00 UTC`. */
export function minuteText(time: string): string {
  return `${time.slice(0, 16).replace('T', ' ')} UTC`;
}
