/** Loaded ahead of a seeder that is to say nothing to the index: what the index costs is the difference. */
import { IndexReporter } from "../../../peer/migration/index-reporter.ts";

IndexReporter.prototype.checkpoint = () => Promise.resolve();
IndexReporter.prototype.mark = () => {};
