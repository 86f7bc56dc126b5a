/** Builds pings for services that raise an alarm when something has not run: healthchecks.io and similar ones, and Uptime Kuma. Pure. */
import { sizeText } from '../contract/amounts.ts';
import type { Run } from '../contract/schemas.ts';
import { everything, hasEnded, shownRun } from '../runs/fold.ts';
import { markdownOf } from '../runs/report.ts';

/** A request to such a service. */
export interface Ping {
  /** `start`, or how the run ended. */
  what: 'start' | 'up' | 'down';
  method: 'GET' | 'POST';
  url: string;
  /** Empty, or a report in Markdown. */
  body: string;
}

/** Kuma's pages cut longer texts. */
const longestText = 200;

/**
 * The ping for this state of a run: that it has begun, if this is its first state, or how it ended; otherwise undefined. A run that was cancelled is down, because its
 * backups were not made.
 */
export function pingOf(run: Run): Ping | undefined {
  const { ping } = run.request;
  const isFirst = run.created_at === run.updated_at && !hasEnded(run);
  if (ping === undefined || !(isFirst || hasEnded(run))) return undefined;
  const what = isFirst ? 'start' : run.status === 'Success' ? 'up' : 'down';
  const url = new URL(ping);
  return isKumas(url) ? kumaPing(run, url, what) : healthcheck(run, url, what);
}

/** As in https://healthchecks.io/docs/http_api: a POST to the URL itself means success; with `rid`, the service measures how long the run took. */
function healthcheck(run: Run, url: URL, what: Ping['what']): Ping {
  const path = url.pathname.replace(/\/$/, '');
  url.pathname = { start: `${path}/start`, up: path, down: `${path}/fail` }[what];
  url.searchParams.set('rid', run.id);
  return { what, method: 'POST', url: url.href, body: what === 'start' ? '' : reportOf(run) };
}

/** Kuma's monitors of type Push are `/api/push/<token>`, and know no start. */
function isKumas({ pathname }: URL): boolean {
  return pathname.includes('/api/push/');
}

function kumaPing(run: Run, url: URL, what: Ping['what']): Ping | undefined {
  if (what === 'start') return undefined;
  const [heading = ''] = reportOf(run).split('\n');
  url.searchParams.set('status', what);
  url.searchParams.set('msg', heading.replace(/^# /, '').slice(0, longestText));
  url.searchParams.set('ping', String(Date.parse(run.ended_at ?? run.updated_at) - Date.parse(run.created_at)));
  return { what, method: 'GET', url: url.href, body: '' };
}

/** The report, with the failures that the run's head has. */
function reportOf(run: Run): string {
  const shown = shownRun(run, everything, new Date(run.updated_at));
  if (!shown) return '';
  const failed = shown.failures.filter(({ instance }) => instance !== '');
  const children = failed.map((each) => ({ ...each, state: 'failure' as const, operation: '' }));
  return markdownOf({ ...shown, children }, sizeText);
}
