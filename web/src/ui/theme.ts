/**
 * Light or dark: as the system says, unless somebody chose.
 *
 * @module
 */
const THEME_ITEM = "memferry-theme";

export const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

export function chosenTheme(): Theme {
  const kept = localStorage.getItem(THEME_ITEM);
  return kept === "light" || kept === "dark" ? kept : "system";
}

export function applyTheme(theme: Theme = chosenTheme()): void {
  if (theme === "system") {
    localStorage.removeItem(THEME_ITEM);
    delete document.documentElement.dataset["theme"];
  } else {
    localStorage.setItem(THEME_ITEM, theme);
    document.documentElement.dataset["theme"] = theme;
  }
}
